"""Every decision that leads to a Plan, on cards that name nothing real and folders that hold almost nothing."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.api import (
    AttentionCard,
    AttentionRequirement,
    ConfigError,
    DovetailError,
    PluginError,
    ResolutionError,
    UsageError,
)
from dovetail.api.checkpoint import HF_TOKENIZER
from dovetail.kernel.choose import choose, run_probe
from dovetail.kernel.discovery import KINDS
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.plan import Plan
from dovetail.kernel.registry import Registry
from dovetail.kernel.resolve import find_attention

from . import fakes
from .fakes import attention, format_, grammar, kernel, loader, model, platform, plugin, source
from .installation import CONFIG, OPTIONAL, PARTS, configure, plan, reasons, weights

# The whole.


def test_a_plan_names_every_part_and_why(folder: Path) -> None:
    found = plan(folder)
    assert [(c.role, c.part.name, c.part.distribution, c.part.version) for c in found.choices()] == [
        ("source", "folder", "base", "1.0"),
        ("loader", "plain", "base", "1.0"),
        ("model", "tiny", "base", "1.0"),
        ("platform", "host", "base", "1.0"),
        ("attention", "eager", "base", "1.0"),
        ("grammar", "rules", "base", "1.0"),
    ]
    assert {c.role: c.reason for c in found.choices()} == {
        "source": f"resolves to {folder}",
        "loader": "rank 50, the only one that fits",
        "model": "offers TinyForCausalLM; rank 50, the only one that fits",
        "platform": "rank 50, the only one that fits",
        "attention": "rank 50, the only one that fits",
        "grammar": "rank 50, the only one that fits",
    }
    assert [(w.kind, w.type, w.format.part.name, [k.name for k in w.kernels]) for w in found.weights] == [
        (kind, "float32", "dense", ["matmul"]) for kind in ("linear", "head", "embedding")
    ]
    assert found.config == CONFIG
    assert (found.architecture, found.dtype, found.kv_dtype) == ("TinyForCausalLM", "float32", "float32")
    assert found.max_model_len == 2048
    assert (found.checkpoint.tokenizer, found.checkpoint.tokenizer_path) == (HF_TOKENIZER, str(folder))
    assert found.build_model_config() == fakes.TinyConfig.model_validate(CONFIG)
    assert found.warnings == ()


def test_a_plan_survives_json(folder: Path) -> None:
    weights(folder, float32=3, q4=2)
    configure(folder, rope={"factors": [1.0, 2.5], "none": None}, limit=float("inf"))
    found = plan(
        folder,
        format_("packed", ("q4",), ("ints",)),
        kernel("any", rank=0),
        hf_overrides=lambda c: {**c, "added": (1, (2,))},
    )
    again = Plan.model_validate_json(found.model_dump_json())
    assert again == found
    assert again.build_model_config() == found.build_model_config()
    assert Plan.model_validate(found.model_dump()) == found


@pytest.mark.parametrize("kind", sorted(set(PARTS) - set(OPTIONAL)))
@pytest.mark.parametrize("broken", ["", "SyntaxError: oops"])
def test_a_missing_part_is_named_with_those_that_might_have_been_it(folder: Path, kind: str, broken: str) -> None:
    with pytest.raises(DovetailError) as caught:
        plan(folder, without=kind, broken=broken)
    assert caught.value.exit_code == 1
    assert "wanted" in str(caught.value)
    assert ("the broken plugin cracked may offer it (SyntaxError: oops)" in str(caught.value)) == bool(broken)
    assert caught.value.hint


def test_a_conflict_is_named_where_it_explains_the_failure(folder: Path) -> None:
    with pytest.raises(
        ResolutionError, match=r"model 'tiny' is offered by base 1\.0 and more-0 1\.0.*--prefer model:tiny=base"
    ):
        plan(folder, model("tiny"))


# Choosing.


def test_the_highest_rank_that_fits_wins(folder: Path) -> None:
    found = plan(
        folder, attention("fast", rank=100), attention("faster", rank=200, devices=("gpu",)), attention("slow", rank=0)
    )
    assert found.attention.part.name == "fast"
    assert found.attention.reason == "rank 100, highest of 3 that fit"
    assert reasons(found, "attention") == {
        "faster": "runs on gpu, not on cpu",
        "eager": "fits, rank 50 is lower",
        "slow": "fits, rank 0 is lower",
    }
    assert found.warnings == ()


def test_ties_go_by_name_with_a_warning(folder: Path) -> None:
    found = plan(folder, attention("aaa"), attention("zzz"))
    assert found.attention.part.name == "aaa"
    assert reasons(found, "attention") == dict.fromkeys(("eager", "zzz"), "fits, rank 50 is equal, later by name")
    (warning,) = found.warnings
    assert warning.startswith(
        "attention aaa (more-0 1.0) and attention eager (base 1.0) and attention zzz (more-1 1.0) fit"
    )


def test_an_explicit_choice_is_taken_whatever_its_rank(folder: Path) -> None:
    found = plan(folder, attention("slow", rank=0), attention_backend="slow")
    assert (found.attention.part.name, found.attention.reason) == ("slow", "asked for by name")


def test_an_explicit_choice_that_does_not_fit_never_falls_back(folder: Path) -> None:
    with pytest.raises(ResolutionError) as caught:
        plan(folder, attention("other", devices=("gpu",)), attention_backend="other")
    assert str(caught.value) == (
        "the attention 'other' was asked for but does not fit: runs on gpu, not on cpu; "
        "leave the choice to auto or take another of eager"
    )


def test_an_explicit_choice_that_is_not_there_says_what_is(folder: Path) -> None:
    with pytest.raises(
        ResolutionError, match=r"^wanted the loader 'nope', found plain; install the plugin that offers it, or"
    ):
        plan(folder, load_format="nope")
    with pytest.raises(
        ResolutionError, match=r"^wanted the platform 'nope', found host; note that the broken plugin cracked"
    ):
        plan(folder, device="nope", broken="ValueError")


def test_an_explicit_choice_in_conflict_says_how_to_settle_it(folder: Path) -> None:
    with pytest.raises(
        ResolutionError, match=r"^attention 'eager' is offered by base 1\.0 and more-0 1\.0, so neither is used; "
    ):
        plan(folder, attention("eager"), attention_backend="eager")


names = st.text("abcdef", min_size=1, max_size=3)
offered = st.lists(st.tuples(names, st.integers(0, 3), st.booleans(), st.integers(0, 2)), max_size=8)


def outcome(cards: list[tuple[str, int, bool, int]], explicit: str | None) -> Any:
    # One plugin a card, so that names may come into conflict; those that do not fit run on another device.
    plugins = [
        plugin(f"{fits}-{rank}-{distribution}-{name}", attention(name, rank=rank, devices=("cpu" if fits else "gpu",)))
        for name, rank, fits, distribution in cards
    ]
    warnings: list[str] = []
    found = Registry(plugins)
    try:
        offer, choice = choose(
            "attention",
            AttentionCard,
            found,
            lambda card: None if "cpu" in card.devices else "runs elsewhere",
            explicit=explicit,
            wanted="attention",
            warnings=warnings,
        )
    except ResolutionError as error:
        return str(error)
    return offer, choice, warnings, [str(c) for c in found.conflicts]


@settings(max_examples=150, deadline=None)
@given(offered, st.none() | names, st.randoms(use_true_random=False))
def test_the_order_of_installation_decides_nothing(
    cards: list[tuple[str, int, bool, int]], explicit: str | None, shuffler: random.Random
) -> None:
    cards = list(dict.fromkeys(cards))
    shuffled = list(cards)
    shuffler.shuffle(shuffled)
    assert outcome(shuffled, explicit) == outcome(cards, explicit)


@settings(max_examples=150, deadline=None)
@given(offered)
def test_auto_takes_the_best_that_fits_and_explains_all_others(cards: list[tuple[str, int, bool, int]]) -> None:
    cards = list({name: (name, rank, fits, d) for name, rank, fits, d in cards}.values())
    fitting = sorted((-rank, name) for name, rank, fits, _ in cards if fits)
    found = outcome(cards, None)
    if not fitting:
        assert found.startswith("wanted attention, found nothing that fits (")
        return
    offer, choice, warnings, _ = found
    assert offer.name == choice.part.name == fitting[0][1]
    assert {r.name for r in choice.rejected} == {name for name, *_ in cards} - {offer.name}
    assert all(r.reason for r in choice.rejected)
    assert bool(warnings) == (len(fitting) > 1 and fitting[0][0] == fitting[1][0])


# What plugins do wrong once they are asked.


@pytest.mark.parametrize("how", ["raising", "leaving"])
@pytest.mark.parametrize("kind", ["source", "loader"])
def test_a_part_that_fails_is_named(folder: Path, kind: str, how: str) -> None:
    cards = {"source": source("folder", how), "loader": loader("plain", inspect=f"{fakes.__name__}:{how}")}
    what = {"raising": "ZeroDivisionError: division by zero", "leaving": "SystemExit: 3"}[how]
    with pytest.raises(
        PluginError,
        match=rf"^the {kind} \w+ \(base 1\.0\) failed to .*: {what} \(in .*fakes, line \d+\); update it, or leave it out with --plugins=-base",
    ):
        plan(folder, parts={kind: cards[kind]})


def test_a_loader_that_describes_nothing_is_named(folder: Path) -> None:
    with pytest.raises(
        PluginError, match=r"^the loader plain \(base 1\.0\) answered the files at .* with str, wanted a Checkpoint"
    ):
        plan(folder, parts={"loader": loader("plain", inspect=f"{__name__}:text")})


def text(path: str, files: tuple[str, ...]) -> str:
    return path


def test_a_part_that_cannot_be_imported_is_named(folder: Path) -> None:
    with pytest.raises(
        PluginError, match=r"^the model tiny \(base 1\.0\): cannot import nowhere_at_all:C: ModuleNotFoundError"
    ):
        plan(folder, parts={"model": model("tiny", config="nowhere_at_all:C")})


# Platforms.


def test_a_platform_whose_probe_finds_nothing_is_passed_over(folder: Path) -> None:
    gpu = platform("gpu", "gpu", rank=100, probe=f"{fakes.__name__}:absent")
    found = plan(folder, gpu)
    assert found.platform.part.name == "host"
    assert reasons(found, "platform") == {"gpu": "there is no such device here"}
    with pytest.raises(
        ResolutionError, match="'gpu' was asked for but does not fit: there is no such device here; leave"
    ):
        plan(folder, gpu, device="gpu")
    assert plan(folder, platform("gpu", "gpu", rank=100, probe=f"{fakes.__name__}:present")).platform.part.name == "gpu"


@pytest.mark.parametrize(
    ("probe", "objection"),
    [
        (None, None),
        (f"{fakes.__name__}:present", None),
        (f"{fakes.__name__}:absent", "there is no such device here"),
        (f"{fakes.__name__}:raising", "its probe failed (ZeroDivisionError: division by zero)"),
        (f"{fakes.__name__}:leaving", "its probe failed (SystemExit: 3)"),
        ("nowhere_at_all:probe", "its probe failed (cannot import nowhere_at_all:probe: "),
    ],
)
def test_a_probe_s_failure_is_an_objection(probe: str | None, objection: str | None) -> None:
    found = run_probe(probe)
    assert found is None if objection is None else found and found.startswith(objection)


# Dtypes.


@pytest.mark.parametrize(
    ("option", "stored", "model_dtypes", "platform_dtypes", "found"),
    [
        ("auto", None, ("float32", "float16"), ("float32", "float16"), "float32"),
        ("auto", "float16", ("float32", "float16"), ("float32", "float16"), "float16"),
        ("auto", "torch.float16", ("float32", "float16"), ("float32", "float16"), "float16"),
        ("auto", "bfloat16", ("float32", "float16"), ("float32", "bfloat16"), "float32"),
        ("auto", "bfloat16", ("float16", "bfloat16"), ("float32", "float16"), "float16"),
        ("auto", "nonsense", ("float32",), ("float32",), "float32"),
        ("half", "float32", ("float32", "float16"), ("float32", "float16"), "float16"),
        ("float", "float16", ("float32", "float16"), ("float32", "float16"), "float32"),
        ("float16", None, ("float32", "float16"), ("float32", "float16"), "float16"),
        ("float16", None, ("float32",), ("float32", "float16"), "the model tiny claims float32"),
        ("float16", None, ("float32", "float16"), ("float32",), "the platform host claims float32"),
        (
            "fp8",
            None,
            ("float32",),
            ("float32",),
            "wanted the dtype fp8, but the model tiny claims float32; choose one",
        ),
        ("auto", None, ("float16",), ("float32",), "computes in float16, the platform host in float32; choose another"),
    ],
)
def test_the_dtype(
    folder: Path,
    option: str,
    stored: str | None,
    model_dtypes: tuple[str, ...],
    platform_dtypes: tuple[str, ...],
    found: str,
) -> None:
    configure(folder, torch_dtype=stored)
    parts = {
        "model": model("tiny", dtypes=model_dtypes),
        "platform": platform(dtypes=platform_dtypes),
        "kernel": kernel("matmul", dtypes=("float32", "bfloat16", "float16")),
    }
    if " " in found:
        with pytest.raises(ResolutionError, match=found):
            plan(folder, parts=parts, dtype=option)
    else:
        assert plan(folder, parts=parts, dtype=option).dtype == found


# Attention.


@pytest.mark.parametrize(
    ("option", "dtype"),
    [("fp8", "float8_e4m3fn"), ("fp8_e4m3", "float8_e4m3fn"), ("fp8_e5m2", "float8_e5m2"), ("float16", "float16")],
)
def test_the_cache_s_dtype_goes_by_its_short_names_too(folder: Path, option: str, dtype: str) -> None:
    parts = {"attention": attention("eager", kv_dtypes=("float8_e4m3fn", "float8_e5m2", "float16"))}
    assert plan(folder, parts=parts, kv_cache_dtype=option).kv_dtype == dtype


@pytest.mark.parametrize(
    ("claims", "options", "config", "reason"),
    [
        ({"devices": ("gpu",)}, {}, {}, "runs on gpu, not on cpu"),
        ({"dtypes": ("float16",)}, {}, {}, "takes float16, not float32"),
        ({}, {"kv_cache_dtype": "float8_e5m2"}, {}, "keeps the KV cache in float32, not in float8_e5m2"),
        ({"block_sizes": (32, 64)}, {}, {}, "takes blocks of 32, 64 tokens, not 16"),
        ({"head_dims": (64, 128)}, {}, {}, "takes heads of 64, 128, not 8"),
        ({}, {}, {"window": 4}, "does plain attention, not sliding"),
        ({"probe": f"{fakes.__name__}:absent"}, {}, {}, "there is no such device here"),
        ({"devices": ("cpu",)}, {}, {}, None),
        ({"kv_dtypes": ("float8_e5m2",)}, {"kv_cache_dtype": "float8_e5m2"}, {}, None),
        ({"block_sizes": (32, 64)}, {"block_size": 64}, {}, None),
        ({"head_dims": (8,), "features": ("sliding",)}, {}, {"window": 4}, None),
        (
            {"head_dims": (64, (192, 128)), "features": ("sliding",)},
            {},
            {},
            "takes heads of 64, 192 with values of 128, not 8",
        ),
    ],
)
def test_an_attention_backend_is_held_to_its_claims(
    folder: Path, claims: dict[str, Any], options: dict[str, Any], config: dict[str, Any], reason: str | None
) -> None:
    configure(folder, **config)
    parts = {"attention": attention("eager", **claims), "model": model("tiny", attention=("sliding",))}
    if reason is None:
        found = plan(folder, parts=parts, **options)
        assert found.attention.part.name == "eager"
        assert found.kv_dtype == options.get("kv_cache_dtype", "float32")
        return
    kind = "sliding attention with heads of 8" if config else "plain attention with heads of 8"
    if "kv_cache_dtype" in options:
        kind += f", KV cache in {options['kv_cache_dtype']}"
    with pytest.raises(ResolutionError) as caught:
        plan(folder, parts=parts, **options)
    wanted = f"wanted attention on cpu in float32 ({kind}), found nothing that fits (eager: {reason}); "
    assert str(caught.value).startswith(wanted)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"features": ("sliding", "value_dim")}, "does sliding, value_dim attention, not softcap"),
        ({"exclusive": (("sliding", "softcap"),)}, "does not do sliding and softcap in one layer"),
        (
            {"exclusive": (("sliding", "softcap", "value_dim"),)},
            "does not do sliding and softcap and value_dim in one layer",
        ),
        ({"head_dims": (8, 6, (6, 8))}, "takes heads of 8, 6, 6 with values of 8, not 8 with values of 6"),
        ({"head_dims": ((8, 6),)}, None),
        ({"exclusive": (("sliding", "softcap", "sinks"),)}, None),
    ],
)
def test_features_are_claimed_in_any_combination_but_those_that_exclude_each_other(
    claims: dict[str, Any], reason: str | None
) -> None:
    claimed = {"features": ("sliding", "softcap", "sinks", "value_dim"), **claims}
    card = attention("eager", **claimed)
    needs = AttentionRequirement(features=frozenset({"sliding", "softcap", "value_dim"}), head_dim=8, value_dim=6)
    registry = Registry([plugin("base", card)])
    resolve = partial(find_attention, PlanOptions(), (needs,), "cpu", "float32", "float32", registry, [])
    if reason is None:
        assert resolve().part.name == "eager"
        return
    with pytest.raises(ResolutionError) as caught:
        resolve()
    wanted = (
        "wanted attention on cpu in float32 (sliding, softcap, value_dim attention with heads of 8 with values of 6)"
    )
    assert str(caught.value).startswith(f"{wanted}, found nothing that fits (eager: {reason}); ")


@pytest.mark.parametrize(
    ("features", "sizes", "told"),
    [
        ({"sliding", "chunked"}, {}, "no layer is chunked and sliding"),
        ({"bidirectional", "shared_cache"}, {}, "no layer is bidirectional and shared_cache"),
        ((), {"value_dim": 6}, "value_dim is 6 and head_dim 8, wanted the feature value_dim"),
        ({"value_dim"}, {"value_dim": 8}, "for values of another size"),
    ],
)
def test_requirements_that_contradict_themselves_are_refused(features: Any, sizes: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        AttentionRequirement(features=frozenset(features), head_dim=8, **sizes)


def test_a_model_that_asks_for_attention_beyond_its_card_is_named(folder: Path) -> None:
    configure(folder, window=4)
    with pytest.raises(
        PluginError, match=r"^the model tiny asks for sliding attention, and its card lists plain attention; update"
    ):
        plan(folder)


# The grammar backend.


def test_the_best_grammar_backend_is_taken_with_what_the_server_asks_of_it(folder: Path) -> None:
    found = plan(folder, grammar("better", rank=100, kinds=("choice",)))
    assert found.grammar is not None
    assert found.grammar.part.name == "better"
    assert found.grammar_kinds == ("choice",)
    assert found.grammar_validate == f"{fakes.__name__}:present"
    assert reasons(found, "grammar") == {"rules": "fits, rank 50 is lower"}


def test_without_a_grammar_backend_everything_else_is_served(folder: Path) -> None:
    found = plan(folder, without="grammar")
    assert (found.grammar, found.grammar_validate, found.grammar_kinds) == (None, None, ())
    assert "grammar" not in {choice.role for choice in found.choices()}
    assert Plan.model_validate_json(found.model_dump_json()) == found


def test_a_grammar_backend_that_was_named_must_be_there(folder: Path) -> None:
    assert plan(folder, structured_outputs_backend="rules").grammar is not None
    with pytest.raises(ResolutionError, match=r"^wanted the grammar 'other', found rules; install the plugin"):
        plan(folder, structured_outputs_backend="other")
    with pytest.raises(ResolutionError, match=r"^wanted the grammar 'rules', found none; note that the broken plugin"):
        plan(folder, without="grammar", broken="SyntaxError: oops", structured_outputs_backend="rules")


# The context.


def test_the_context_is_the_model_s_or_less(folder: Path) -> None:
    configure(folder, max_position_embeddings=100)
    assert plan(folder).max_model_len == 100
    assert plan(folder, max_model_len=100).max_model_len == 100
    assert plan(folder, max_model_len=2).max_model_len == 2
    with pytest.raises(
        UsageError,
        match=r"^--max-model-len 101 exceeds the 100 tokens that the model was made for; give at most --max-model-len 100, or",
    ):
        plan(folder, max_model_len=101)
    assert plan(folder, max_model_len=101, hf_overrides={"max_position_embeddings": 200}).max_model_len == 101


def test_a_context_of_one_token_is_refused(folder: Path) -> None:
    configure(folder, max_position_embeddings=1)
    with pytest.raises(ConfigError, match="a context of 1 token, wanted at least 2"):
        plan(folder)


def test_the_length_that_a_rope_scaling_was_made_for_can_be_asked_for(folder: Path) -> None:
    configure(folder, max_position_embeddings=4096, rope_scaling={"type": "linear", "factor": 4.0})
    found = plan(folder)
    assert found.max_model_len == 4096
    assert any("--max-model-len 16384" in warning for warning in found.warnings)
    longer = plan(folder, max_model_len=16384)
    assert longer.max_model_len == 16384
    assert not any("--max-model-len" in warning for warning in longer.warnings)
    with pytest.raises(
        UsageError,
        match=r"^--max-model-len 16385 exceeds the 16384 tokens that the model and its RoPE scaling were made for; "
        r"give at most --max-model-len 16384, or",
    ):
        plan(folder, max_model_len=16385)


@pytest.mark.parametrize("length", [1, 0, -5])
def test_a_context_without_room_for_an_answer_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        PlanOptions(max_model_len=length)


def test_every_kind_of_card_has_a_part_here() -> None:
    assert set(KINDS) == set(PARTS)


def test_more_layers_than_tensors_are_refused(folder: Path) -> None:
    configure(folder, num_hidden_layers=4)
    with pytest.raises(ConfigError, match=r"config\.json says num_hidden_layers 4, and the files .* hold 3 tensors"):
        plan(folder)

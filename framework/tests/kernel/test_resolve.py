"""Every decision that leads to a Plan, on cards that name nothing real and folders that hold almost nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.api import (
    AttentionCard,
    Card,
    CheckpointError,
    ConfigError,
    DovetailError,
    NamingCard,
    PluginError,
    ResolutionError,
    UsageError,
)
from dovetail.api.checkpoint import HF_TOKENIZER
from dovetail.kernel.checkpoints import apply_overrides
from dovetail.kernel.choose import choose, run_probe
from dovetail.kernel.discovery import KINDS
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.plan import Plan
from dovetail.kernel.registry import Registry
from dovetail.kernel.resolve import resolve

from . import fakes
from .fakes import attention, format_, kernel, loader, model, platform, plugin, source

CONFIG = {"architectures": ["TinyForCausalLM"], "vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 1}
PARTS: dict[str, Card] = {
    "model": model("tiny"),
    "loader": loader("plain"),
    "format": format_("dense", ("float32", "bfloat16"), ("dense",)),
    "kernel": kernel("matmul", "dense"),
    "attention": attention("eager"),
    "platform": platform(),
    "source": source(),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint: a configuration, and a file that stands for weights."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "weights.w").touch()
    return tmp_path


def configure(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))


def weights(folder: Path, **types: int) -> None:
    (folder / "weights.w").write_text(json.dumps(types))


def registry(*more: Card, without: str = "", broken: str = "", **parts: Card) -> Registry:
    """The parts of a working installation, some replaced, some added."""
    cards = [card for kind, card in {**PARTS, **parts}.items() if kind != without]
    plugins = [plugin("base", *cards), *(plugin(f"more-{i}", card) for i, card in enumerate(more))]
    if broken:
        plugins.append(plugin("cracked"))
        plugins[-1].quarantine(broken)
    return Registry(plugins)


def plan(
    folder: Path | str, *more: Card, without: str = "", broken: str = "", parts: Any = None, **options: Any
) -> Plan:
    return resolve(
        PlanOptions(model=str(folder), **options), registry(*more, without=without, broken=broken, **parts or {})
    )


def reasons(plan: Plan, role: str) -> dict[str, str]:
    (choice,) = [c for c in plan.choices() if c.role == role]
    return {r.name: r.reason for r in choice.rejected}


# The whole.


def test_a_plan_names_every_part_and_why(folder: Path) -> None:
    found = plan(folder)
    assert [(c.role, c.part.name, c.part.distribution, c.part.version) for c in found.choices()] == [
        ("source", "folder", "base", "1.0"),
        ("loader", "plain", "base", "1.0"),
        ("model", "tiny", "base", "1.0"),
        ("platform", "host", "base", "1.0"),
        ("attention", "eager", "base", "1.0"),
    ]
    assert {c.role: c.reason for c in found.choices()} == {
        "source": f"resolves to {folder}",
        "loader": "rank 50, the only one that fits",
        "model": "offers TinyForCausalLM; rank 50, the only one that fits",
        "platform": "rank 50, the only one that fits",
        "attention": "rank 50, the only one that fits",
    }
    assert [(w.kind, w.type, w.format.part.name, [k.name for k in w.kernels]) for w in found.weights] == [
        (kind, "float32", "dense", ["matmul"]) for kind in ("linear", "head", "embedding")
    ]
    assert found.config == CONFIG
    assert (found.architecture, found.dtype, found.kv_dtype) == ("TinyForCausalLM", "float32", "float32")
    assert found.max_model_len == 2048
    assert (found.checkpoint.tokenizer, found.checkpoint.tokenizer_path) == (HF_TOKENIZER, str(folder))
    assert found.model_config_object() == fakes.TinyConfig.model_validate(CONFIG)
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
    assert again.model_config_object() == found.model_config_object()
    assert Plan.model_validate(found.model_dump()) == found


@pytest.mark.parametrize("kind", sorted(PARTS))
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


# Sources.


def test_sources_are_asked_by_rank_until_one_answers(folder: Path) -> None:
    found = plan(folder, source("first", "nowhere", rank=90), source("last", rank=10))
    assert found.source.part.name == "folder"
    assert reasons(found, "source") == {"first": "not a reference of its kind"}


def test_a_model_that_no_source_knows(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"^wanted the model 'x', found no folder, file or hub repository of that name; check"
    ):
        plan("x", parts={"source": source("folder", "nowhere")})


# What plugins do wrong once they are asked.


@pytest.mark.parametrize("how", ["raising", "leaving"])
@pytest.mark.parametrize("kind", ["source", "loader"])
def test_a_part_that_fails_is_named(folder: Path, kind: str, how: str) -> None:
    cards = {"source": source("folder", how), "loader": loader("plain", inspect=f"{fakes.__name__}:{how}")}
    what = {"raising": "ZeroDivisionError: division by zero", "leaving": "SystemExit: 3"}[how]
    with pytest.raises(
        PluginError, match=rf"^the {kind} \w+ \(base 1\.0\) failed in .*:{how}: {what}; report it to its authors"
    ):
        plan(folder, parts={kind: cards[kind]})


def test_a_loader_that_describes_nothing_is_named(folder: Path) -> None:
    with pytest.raises(
        PluginError, match=r"^the loader plain \(base 1\.0\) described .* with str, wanted a Checkpoint"
    ):
        plan(folder, parts={"loader": loader("plain", inspect=f"{__name__}:text")})


def text(path: str, files: tuple[str, ...]) -> str:
    return path


def test_a_part_that_cannot_be_imported_is_named(folder: Path) -> None:
    with pytest.raises(PluginError, match=r"^cannot import nowhere_at_all:C: ModuleNotFoundError"):
        plan(folder, parts={"model": model("tiny", config="nowhere_at_all:C")})


# Loaders.


def test_the_loader_goes_by_the_names_of_the_files(folder: Path) -> None:
    (folder / "weights.x").touch()
    found = plan(folder, loader("other", "*.x", rank=90), loader("third", "*.y"))
    assert found.loader.part.name == "other"
    assert found.checkpoint.files == (str(folder / "weights.x"),)
    assert reasons(found, "loader")["third"] == "reads *.y; found config.json, weights.w, weights.x"
    assert plan(folder, loader("other", "*.x", rank=90), load_format="plain").loader.part.name == "plain"
    assert plan(folder / "weights.w", loader("other", "*.x", rank=90)).loader.part.name == "plain"


def test_a_loader_gets_all_files_of_its_patterns_in_order(folder: Path) -> None:
    for name in ("b.w", "a.w", "c.v", "d.x"):
        (folder / name).touch()
    found = plan(folder, parts={"loader": loader("plain", "*.w", "*.v")})
    assert [Path(f).name for f in found.checkpoint.files] == ["a.w", "b.w", "c.v", "weights.w"]


def test_an_explicit_loader_without_files_is_refused(folder: Path) -> None:
    with pytest.raises(
        ResolutionError, match=r"'other' was asked for but does not fit: reads \*\.x; found config\.json, weights\.w; "
    ):
        plan(folder, loader("other", "*.x"), load_format="other")


def test_a_folder_without_weights_says_what_is_in_it(folder: Path) -> None:
    (folder / "weights.w").unlink()
    with pytest.raises(
        ResolutionError, match=r"^wanted weights \(\*\.w\) at .*, found config\.json; complete the download, or install"
    ):
        plan(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ResolutionError, match=r"^wanted weights \(\*\.w\) at .*, found no files; complete"):
        plan(folder)


@pytest.mark.parametrize("reference", ["/dev/null", "nowhere"])
def test_what_is_neither_a_folder_nor_a_file_is_refused(reference: str) -> None:
    with pytest.raises(CheckpointError, match=f"^cannot read {reference} "):
        plan(reference)


# The configuration.


def test_a_missing_configuration_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"^wanted config\.json in .*, found none; complete the download, or name"
    ):
        plan(folder)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", r"config\.json is not readable JSON \(Expecting property name"),
        ("", r"config\.json is not readable JSON"),
        ("[1]", r"config\.json holds a JSON list, wanted an object; repair"),
        ("[" * 100_000, r"config\.json is not readable JSON \(maximum recursion"),
        ("{}", r"config\.json names no architectures; name one with --hf-overrides"),
        (json.dumps({**CONFIG, "architectures": None}), r"config\.json names no architectures"),
        (json.dumps({**CONFIG, "architectures": []}), r"config\.json names no architectures"),
        (
            json.dumps({**CONFIG, "architectures": "Tiny"}),
            r"architectures is 'Tiny', wanted a list of names; for example",
        ),
        (json.dumps({**CONFIG, "architectures": 5}), "architectures is 5, wanted a list of names"),
        (json.dumps({**CONFIG, "architectures": [5]}), r"architectures is \[5\], wanted a list of names"),
        (json.dumps({**CONFIG, "architectures": {"a": 1}}), "architectures is {'a': 1}, wanted a list of names"),
        (json.dumps({**CONFIG, "hidden_size": None}), r"hidden_size: Input should be a valid integer \(found None\)"),
        (json.dumps({**CONFIG, "hidden_size": 0}), r"hidden_size: .*greater than 0 \(found 0\)"),
        (json.dumps({**CONFIG, "quantization_config": "awq"}), r"quantization_config: .*dictionary \(found 'awq'\)"),
        (
            json.dumps({"architectures": ["TinyForCausalLM"]}),
            r"^TinyConfig cannot be read from .*config\.json: vocab_size: is missing; hidden_size: is missing; num_hidden_layers: "
            r"is missing; correct the file, or override keys with --hf-overrides$",
        ),
    ],
    ids=lambda value: value[:40],
)
def test_a_configuration_that_cannot_be_used_is_refused(folder: Path, content: str, told: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=told):
        plan(folder)


def test_a_configuration_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"config\.json is not readable JSON"):
        plan(folder)


class StumblingConfig(fakes.TinyConfig):
    """A configuration whose author did not think of every value."""

    def __init__(self, **_: Any) -> None:
        raise TypeError("unsupported operand")

    @classmethod
    def model_validate(cls, obj: Any, **_: Any) -> Any:
        return cls(**obj)


def test_a_configuration_class_that_stumbles_is_the_file_s_fault(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^StumblingConfig cannot be read from .*config\.json: TypeError: unsupported operand; "
    ):
        plan(folder, parts={"model": model("tiny", config=f"{__name__}:StumblingConfig")})


def test_another_configuration_can_be_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    configure(other, max_position_embeddings=99)
    for path in (other, other / "config.json"):
        found = plan(folder, hf_config_path=str(path))
        assert found.max_model_len == 99
        assert found.checkpoint.config_file == str(other / "config.json")
    (folder / "config.json").unlink()
    assert plan(folder, hf_config_path=str(other)).max_model_len == 99


def test_another_configuration_that_is_not_there_is_refused(folder: Path) -> None:
    for path in (folder / "nowhere", folder / "nowhere.json"):
        with pytest.raises(
            CheckpointError, match=rf"^wanted a configuration at {path}, found none; correct --hf-config-path$"
        ):
            plan(folder, hf_config_path=str(path))


def test_the_generation_configuration_is_read_and_may_be_missing(folder: Path) -> None:
    assert plan(folder).checkpoint.generation_config == {}
    (folder / "generation_config.json").write_text('{"top_k": 5}')
    assert plan(folder).checkpoint.generation_config == {"top_k": 5}
    (folder / "generation_config.json").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"generation_config\.json is not readable JSON"):
        plan(folder)


# Overrides.


def test_overrides_merge_objects_and_replace_the_rest() -> None:
    config = {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}, "f": 2}
    changes = {"a": {"c": [3]}, "d": 5, "f": {"g": 1}, "h": None}
    assert apply_overrides(config, changes) == {"a": {"b": 1, "c": [3]}, "d": 5, "f": {"g": 1}, "h": None}
    assert config == {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}, "f": 2}


def test_a_callable_gets_a_copy() -> None:
    config: dict[str, Any] = {"a": {"b": 1}}

    def change(found: dict[str, Any]) -> dict[str, Any]:
        found["a"]["b"] = 2
        return found

    assert apply_overrides(config, change) == {"a": {"b": 2}}
    assert config == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (lambda c: None, "^hf_overrides returned NoneType, wanted the changed configuration as a dict"),
        (lambda c: {"dtype": object}, "^hf_overrides holds what JSON cannot .*; give texts, numbers, lists and dicts"),
        ({"a": {1, 2}}, "^hf_overrides holds what JSON cannot"),
    ],
)
def test_overrides_that_cannot_travel_are_refused(overrides: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        apply_overrides({}, overrides)


def test_overrides_decide_the_architecture(folder: Path) -> None:
    found = plan(folder, model("oak", "OakForCausalLM"), hf_overrides={"architectures": ["OakForCausalLM"]})
    assert (found.architecture, found.model_part.part.name) == ("OakForCausalLM", "oak")
    assert reasons(found, "model") == {"tiny": "offers TinyForCausalLM"}
    with pytest.raises(
        ResolutionError, match=r"^wanted a model plugin for the architecture Nope, found nothing that fits "
    ):
        plan(folder, hf_overrides={"architectures": ["Nope"]})


def test_the_first_architecture_that_anyone_offers_is_taken(folder: Path) -> None:
    configure(folder, architectures=["Unknown", "TinyForCausalLM"])
    assert plan(folder).architecture == "TinyForCausalLM"


def test_two_models_of_one_architecture_go_by_rank(folder: Path) -> None:
    found = plan(folder, model("tuned", rank=100))
    assert found.model_part.part.name == "tuned"
    assert reasons(found, "model") == {"tiny": "fits, rank 50 is lower"}


# Containers with names of their own.

BOXED = {
    "loader": loader("plain", inspect=f"{fakes.__name__}:inspect_container"),
    "model": model("tiny", naming={"box": NamingCard(architectures=("tiny",), target=f"{fakes.__name__}:NAMING")}),
}


def test_a_container_s_metadata_become_the_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()
    found = plan(folder, parts=BOXED)
    assert found.config["hidden_size"] == 16
    assert found.naming == f"{fakes.__name__}:NAMING"
    assert (found.checkpoint.tokenizer, found.checkpoint.tokenizer_path) == ("box:tokenizer", str(folder / "weights.w"))


def test_a_container_s_metadata_give_way_to_another_configuration(folder: Path) -> None:
    found = plan(folder, parts=BOXED, hf_config_path=str(folder))
    assert found.config == CONFIG
    assert found.naming == f"{fakes.__name__}:NAMING"


def test_a_container_that_no_model_reads_is_refused(folder: Path) -> None:
    strange = model("tiny", naming={"box": NamingCard(architectures=("huge", "wide"), target="n:N")})
    with pytest.raises(
        ResolutionError,
        match=r"^wanted a model plugin for the box architecture 'tiny', found huge, wide; install the plugin that offers it, or",
    ):
        plan(folder, parts={**BOXED, "model": strange})
    with pytest.raises(ResolutionError, match="'tiny', found none; note that the broken plugin cracked may offer it"):
        plan(folder, parts={"loader": BOXED["loader"]}, broken="ValueError")


def test_an_architecture_that_cannot_read_the_container_s_names_is_refused(folder: Path) -> None:
    oak, elm = (
        model("oak", "Oak"),
        model("elm", "Elm", naming={"box": NamingCard(architectures=("elm",), target="n:N")}),
    )
    with pytest.raises(ResolutionError, match="oak: cannot read tensors named as in box"):
        plan(folder, oak, parts=BOXED, hf_overrides={"architectures": ["Oak"]})
    with pytest.raises(ResolutionError, match="elm: cannot read the box architecture 'tiny'"):
        plan(folder, elm, parts=BOXED, hf_overrides={"architectures": ["Elm"]})


def test_a_translation_that_fails_is_named(folder: Path) -> None:
    bad = model("tiny", naming={"box": NamingCard(architectures=("tiny",), target=f"{__name__}:BAD_NAMING")})
    with pytest.raises(
        PluginError, match=r"^the model tiny \(base 1\.0\) failed in .*:BAD_NAMING\.config: KeyError: 'depth'; "
    ):
        plan(folder, parts={**BOXED, "model": bad})


class BAD_NAMING:  # noqa: N801 - it stands for an instance
    """Asks for what the metadata lack."""

    @staticmethod
    def config(architecture: str, metadata: dict[str, Any]) -> dict[str, Any]:
        return {"num_hidden_layers": metadata["depth"]}


# The tokenizer.


def test_another_tokenizer_can_be_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("tokenizer")
    (other / "tokenizer.json").touch()
    for path in (other, other / "tokenizer.json"):
        checkpoint = plan(folder, parts=BOXED, tokenizer=str(path)).checkpoint
        assert (checkpoint.tokenizer, checkpoint.tokenizer_path) == (HF_TOKENIZER, str(path))


def test_the_tokenizer_of_another_container_can_be_named(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("weights")
    (other / "other.w").touch()
    for path in (other, other / "other.w"):
        checkpoint = plan(folder, parts=BOXED, tokenizer=str(path)).checkpoint
        assert (checkpoint.tokenizer, checkpoint.tokenizer_path) == ("box:tokenizer", str(other / "other.w"))


def test_a_tokenizer_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"^wanted a tokenizer at ./nowhere, found nothing there; correct --tokenizer"
    ):
        plan(folder, tokenizer="./nowhere")


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
    ("claims", "options", "config", "reason"),
    [
        ({"devices": ("gpu",)}, {}, {}, "runs on gpu, not on cpu"),
        ({"dtypes": ("float16",)}, {}, {}, "takes float16, not float32"),
        ({}, {"kv_cache_dtype": "float8_e5m2"}, {}, "keeps the KV cache in float32, not in float8_e5m2"),
        ({"block_sizes": (32, 64)}, {}, {}, "takes blocks of 32, 64 tokens, not 16"),
        ({"head_dims": (64, 128)}, {}, {}, "takes heads of 64, 128, not 8"),
        ({}, {}, {"window": 4}, "does full attention, not sliding"),
        ({"probe": f"{fakes.__name__}:absent"}, {}, {}, "there is no such device here"),
        ({"devices": ("cpu",)}, {}, {}, None),
        ({"kv_dtypes": ("float8_e5m2",)}, {"kv_cache_dtype": "float8_e5m2"}, {}, None),
        ({"block_sizes": (32, 64)}, {"block_size": 64}, {}, None),
        ({"head_dims": (8,), "kinds": ("full", "sliding")}, {}, {"window": 4}, None),
    ],
)
def test_an_attention_backend_is_held_to_its_claims(
    folder: Path, claims: dict[str, Any], options: dict[str, Any], config: dict[str, Any], reason: str | None
) -> None:
    configure(folder, **config)
    parts = {"attention": attention("eager", **claims), "model": model("tiny", attention=("full", "sliding"))}
    if reason is None:
        found = plan(folder, parts=parts, **options)
        assert found.attention.part.name == "eager"
        assert found.kv_dtype == options.get("kv_cache_dtype", "float32")
        return
    kind = "sliding with heads of 8" if config else "full with heads of 8"
    if "kv_cache_dtype" in options:
        kind += f", KV cache in {options['kv_cache_dtype']}"
    with pytest.raises(ResolutionError) as caught:
        plan(folder, parts=parts, **options)
    wanted = f"wanted attention on cpu in float32 ({kind}), found nothing that fits (eager: {reason}); "
    assert str(caught.value).startswith(wanted)


def test_a_model_that_asks_for_attention_beyond_its_card_is_named(folder: Path) -> None:
    configure(folder, window=4)
    with pytest.raises(
        PluginError, match=r"^the model tiny asks for sliding attention, and its card lists full; update"
    ):
        plan(folder)


# Weights.


def test_each_type_has_its_format_and_kernels_in_order_of_rank(folder: Path) -> None:
    weights(folder, float32=3, q4=2)
    found = plan(
        folder,
        format_("packed", ("q4", "q8"), ("ints",), kinds=("linear", "head")),
        kernel("ints", "ints", rank=90, kinds=("linear",)),
        kernel("any", rank=0),
        kernel("absent", rank=100, probe=f"{fakes.__name__}:absent"),
        kernel("gpu", rank=100, devices=("gpu",)),
        kernel("half", rank=100, dtypes=("float16",)),
    )
    table = {(w.kind, w.type): (w.format.part.name, [k.name for k in w.kernels]) for w in found.weights}
    assert table == {
        ("linear", "float32"): ("dense", ["matmul", "any"]),
        ("head", "float32"): ("dense", ["matmul", "any"]),
        ("embedding", "float32"): ("dense", ["matmul", "any"]),
        ("linear", "q4"): ("packed", ["ints", "any"]),
        ("head", "q4"): ("packed", ["any"]),
    }
    (head,) = [w for w in found.weights if (w.kind, w.type) == ("head", "q4")]
    assert {r.name: r.reason for r in head.rejected} == {
        "absent": "there is no such device here",
        "gpu": "runs on gpu",
        "half": "takes activations in float16, not float32",
        "ints": "serves linear layers",
        "matmul": "takes dense",
    }
    assert {r.name: r.reason for r in head.format.rejected} == {"dense": "reads bfloat16, float32"}


def test_a_type_that_nobody_reads_is_refused(folder: Path) -> None:
    weights(folder, float32=3, q9=7)
    with pytest.raises(
        ResolutionError,
        match=r"^wanted a format that reads 7 tensors of type 'q9' in .*, found nothing that fits \(dense: reads bfloat16, float32\); ",
    ):
        plan(folder)


def test_a_type_that_no_kernel_multiplies_is_refused(folder: Path) -> None:
    with pytest.raises(
        ResolutionError,
        match=r"^wanted a kernel for linear layers of type 'float32' on cpu in float32, found none that fits "
        r"\(ints: takes ints\); install a kernel plugin that covers it$",
    ):
        plan(folder, parts={"kernel": kernel("ints", "ints")})


def test_a_method_that_nobody_reads_says_what_to_install(folder: Path) -> None:
    configure(folder, quantization_config={"quant_method": "gptq"})
    weights(folder, int32=6, float16=3)
    with pytest.raises(
        ResolutionError,
        match=r"^wanted a format for weights quantized by 'gptq', found awq; install dovetail-quant-gptq, or another plugin",
    ):
        plan(folder, format_("awq", ("int32",), methods=("awq",)))
    with pytest.raises(ResolutionError, match="'gptq', found none; note that the broken plugin cracked may offer it"):
        plan(folder, broken="ValueError")


def test_a_method_decides_between_formats_of_one_type(folder: Path) -> None:
    configure(folder, quantization_config={"quant_method": "gptq"})
    weights(folder, int32=6, float32=3)
    found = plan(
        folder,
        format_("awq", ("int32",), methods=("awq",), rank=90),
        format_("gptq", ("int32",), methods=("gptq", "gptq_v2")),
        kernel("any"),
    )
    (linear,) = [w for w in found.weights if (w.kind, w.type) == ("linear", "int32")]
    assert linear.format.part.name == "gptq"
    assert {r.name: r.reason for r in linear.format.rejected} == {
        "awq": "reads checkpoints quantized by awq, not gptq",
        "dense": "reads bfloat16, float32",
    }


def test_a_format_of_a_method_is_not_for_plain_checkpoints(folder: Path) -> None:
    weights(folder, int32=6)
    with pytest.raises(ResolutionError, match="awq: reads checkpoints quantized by awq, not none"):
        plan(folder, format_("awq", ("int32",), methods=("awq",)))


def test_weights_that_are_not_as_the_configuration_says_are_refused(folder: Path) -> None:
    configure(folder, quantization_config={"quant_method": "gptq"})
    with pytest.raises(
        ResolutionError,
        match=r"^wanted weights quantized by 'gptq', as the configuration says, found tensors of type float32, which gptq cannot read; ",
    ):
        plan(folder, format_("gptq", ("int32",), methods=("gptq",)))


def test_a_required_format_wins_over_rank_and_leaves_other_types_alone(folder: Path) -> None:
    weights(folder, float32=3, q4=2)
    formats = (format_("packed", ("q4",), rank=90), format_("lean", ("q4",)), kernel("any"))
    assert {w.format.part.name for w in plan(folder, *formats).weights} == {"dense", "packed"}
    found = plan(folder, *formats, quantization="lean")
    assert {w.type: w.format.part.name for w in found.weights} == {"float32": "dense", "q4": "lean"}


def test_a_required_format_that_does_not_read_the_checkpoint_is_refused(folder: Path) -> None:
    with pytest.raises(ResolutionError) as caught:
        plan(folder, format_("packed", ("q4",)), quantization="packed")
    assert str(caught.value) == (
        "--quantization packed was asked for, but the checkpoint is read by dense; "
        "leave --quantization out, or give a checkpoint in that format"
    )


def test_a_required_format_that_is_not_there_says_what_is(folder: Path) -> None:
    with pytest.raises(
        ResolutionError, match=r"^--quantization awq was asked for, found the formats dense; install dovetail-quant-awq"
    ):
        plan(folder, quantization="awq")


# The context.


def test_the_context_is_the_model_s_or_less(folder: Path) -> None:
    configure(folder, max_position_embeddings=100)
    assert plan(folder).max_model_len == 100
    assert plan(folder, max_model_len=100).max_model_len == 100
    assert plan(folder, max_model_len=2).max_model_len == 2
    with pytest.raises(
        UsageError, match=r"^--max-model-len 101 exceeds the 100 tokens that the model was made for; lower it, or raise"
    ):
        plan(folder, max_model_len=101)
    assert plan(folder, max_model_len=101, hf_overrides={"max_position_embeddings": 200}).max_model_len == 101


@pytest.mark.parametrize("length", [1, 0, -5])
def test_a_context_without_room_for_an_answer_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        PlanOptions(max_model_len=length)


def test_every_kind_of_card_has_a_part_here() -> None:
    assert set(KINDS) == set(PARTS)

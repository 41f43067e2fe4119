"""check_model: what passes, and what each wrong model is told."""

import re
from pathlib import Path

import pytest
import torch
from kit_config import TINY

from dovetail.api import CheckpointError, ConfigError, ModelCard
from dovetail.testing import build_model, check_model, random_checkpoint, run_batch, run_tokens

SLIDING = {**TINY, "window": 7, "tie_word_embeddings": True}


WHOLE = {"config": "WholeConfig", "tasks": ("embed",), "attention": ("sliding", "bidirectional")}


def card(target: str = "Small", config: str = "SmallConfig", **claims: object) -> ModelCard:
    return ModelCard(
        name="small",
        **{
            "architectures": ("SmallForCausalLM",),
            "target": f"kit_models:{target}",
            "config": f"kit_config:{config}",
            "attention": ("sliding",),
            **claims,
        },
    )


def cut_card(target: str) -> ModelCard:
    return card().model_copy(update={"target": f"kit_cuts:{target}"})


@pytest.mark.parametrize(
    "right",
    [
        card(),
        card("Masked"),
        card("Vectors", tasks=("embed",)),
        card("Labelled", tasks=("embed", "classify")),
        cut_card("Sectioned"),
        cut_card("Indivisible"),
        card("Whole", **WHOLE),
    ],
)
def test_a_right_model_passes(right: ModelCard) -> None:
    check_model(right, TINY, SLIDING)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (card("Restarting"), "a prompt in chunks of 8 and whole"),
        (card("Leaking"), "a prompt in a batch and alone"),
        (card("Unturned"), "queries of the attention layers [0, 1] of 2 do not depend on positions, wanted all"),
        (card("HalfTurned"), "queries of the attention layers [1] of 2 do not depend on positions, wanted all"),
        (card("QueriesTurned"), "keys of the attention layers [0, 1] of 2 do not depend on positions, wanted all"),
        (card("Deaf"), "gives the same result if the tokens before it are in another order"),
        (
            card("Idle", layer_kinds=("linear", "head", "embedding", "experts")),
            "its outputs do not depend on idle.a, idle.b, dropped, experts.0.gate, idle.norm.weight, which checkpoints must",
        ),
        (card("Speechless"), "the model Speechless answered forward() with None, wanted hidden states [T, C]"),
        (card("Relisting"), "the model small answered rename("),
        (
            card(config="Wordy"),
            "the model small answered attention_requirements() with str, wanted a tuple of AttentionRequirement",
        ),
        (card("NoHalf"), "claims float16: NotImplementedError: no float16 here"),
        (card("Inexact"), "claims bfloat16: its logits: differs"),
        (card("Silent"), "head borrows the embedding although tie_word_embeddings is false"),
        (card(config="ForgottenWindow"), "claims sliding attention, but no configuration"),
        (card(config="ForgottenWindow", attention=()), "attention_requirements() announces"),
        (card(attention=()), "asks for sliding attention, which its card does not claim"),
        (
            card("Whole", config="SmallConfig", tasks=("embed",)),
            "its layers ask for bidirectional attention with heads of 8",
        ),
        (card("WholeLeaking", **WHOLE), "a prompt in a batch and alone"),
        (
            card(config="NarrowValues", attention=("value_dim",)),
            "announces value_dim attention with heads of 8 with values of 4, its layers ask for plain attention with heads of 8",
        ),
        (card(config="Choosy", architectures=("SmallForCausalLM", "Other")), "claims the architecture Other"),
        (card(attention=("sliding", "softcap")), "claims softcap attention"),
        (card(dtypes=("float32", "float8_e4m3fn")), "claims float8_e4m3fn"),
        (cut_card("Unsectioned"), "on 2 devices: its outputs: differs"),
        (cut_card("WholeDown"), "on 2 devices: RuntimeError: mat1 and mat2"),
        (cut_card("OftenAdded"), "on 2 devices: its outputs: differs"),
        (cut_card("Uncut"), "whole; say how these layers are cut: blocks.0.mlp.gate_up, blocks.0.mlp.down"),
        (cut_card("Straying"), "on 2 devices: RuntimeError: the ranks do not exchange the same: rank 0 gathers"),
        (cut_card("Scattered"), "on 2 devices: they do not all get the same outputs"),
        (card("Vectors"), "claims the task generate, and its class is not built on CausalLM"),
        (card("Vectors", tasks=("embed", "classify")), "claims the task classify: NotImplementedError"),
        (card("Labelled", tasks=("score",)), "pooled_logits gives [3, 2] for 3 vectors, wanted [3, 1]"),
    ],
)
def test_what_is_wrong_is_said(wrong: ModelCard, told: str) -> None:
    # Silent's fault shows only where the head is not tied, ForgottenWindow's only where there is a window.
    with pytest.raises(AssertionError, match=r"model 'small'") as failure:
        check_model(wrong, TINY, SLIDING)
    assert told in str(failure.value)


def test_the_configuration_that_fails_is_named() -> None:
    with pytest.raises(
        AssertionError, match=r"announces.*\(configuration 2 of 2, with tie_word_embeddings True, window 7\)$"
    ):
        check_model(card(config="ForgottenWindow", attention=()), TINY, {"tie_word_embeddings": True, **SLIDING})


READING = [
    (card("Reading"), "whether a tensor is true"),
    (card("Listing"), "a list of a tensor's numbers"),
    (card("Masking"), "the size of a result (indexing with a mask)"),
    (card("Scoring", tasks=("embed", "classify")), "a number of a tensor"),
]


@pytest.mark.parametrize(("reading", "what"), READING, ids=lambda value: getattr(value, "target", None))
def test_a_line_that_reads_a_tensor_on_the_host_is_named(reading: ModelCard, what: str) -> None:
    with pytest.raises(AssertionError, match=r"model 'small'") as failure:
        check_model(reading, TINY, SLIDING)
    path, number = re.search(r"(\S+kit_models\.py):(\d+): ", str(failure.value)).groups()
    assert "# reads" in Path(path).read_text().splitlines()[int(number) - 1]
    assert f"reads {what} on the host" in str(failure.value)


def test_layers_without_positions_are_said() -> None:
    check_model(card("Unturned"), TINY, SLIDING, positions="none")
    check_model(card("HalfTurned"), TINY, SLIDING, positions="some")
    with pytest.raises(AssertionError, match="wanted none to depend on them"):
        check_model(card(), TINY, SLIDING, positions="none")
    with pytest.raises(AssertionError, match="wanted some to depend on them"):
        check_model(card(), TINY, SLIDING, positions="some")


def test_a_claim_without_a_configuration_is_not_passed_over() -> None:
    with pytest.raises(AssertionError, match="claims sliding attention, but no configuration given here asks for it"):
        check_model(card(), TINY)


def test_optional_tensors_are_made_on_request() -> None:
    tied = {**TINY, "tie_word_embeddings": True}
    assert "head.weight" not in random_checkpoint(card(), tied)
    assert "head.weight" in random_checkpoint(card(), tied, optional=True)


def test_building_refuses_as_the_engine_does() -> None:
    tensors = random_checkpoint(card(), TINY)
    with pytest.raises(ConfigError, match="heads: is missing"):
        build_model(card(), {k: v for k, v in TINY.items() if k != "num_heads"}, tensors)
    with pytest.raises(CheckpointError, match=r"missing: .*embedding\.weight"):
        build_model(card(), TINY, {k: v for k, v in tensors.items() if k != "embedding.weight"})


def test_a_batch_gives_every_request_its_logits() -> None:
    model, ctx = build_model(card(), TINY, random_checkpoint(card(), TINY))
    logits = run_batch(model, ctx, [{0: [1, 2, 3]}, {1: [4], 0: [5]}])
    assert {request: tuple(rows.shape) for request, rows in logits.items()} == {0: (4, 31), 1: (1, 31)}
    torch.testing.assert_close(logits[0], run_tokens(model, ctx, [1, 2, 3, 5]))
    with pytest.raises(AssertionError, match="do not cover"):
        run_tokens(model, ctx, [1, 2, 3], [1, 1])

"""check_model: what passes, and what each wrong model is told."""

import pytest
import torch
from kit_config import TINY

from dovetail.api import CheckpointError, ConfigError, ModelCard
from dovetail.testing import build_model, check_model, random_checkpoint, run_batch, run_tokens

SLIDING = {**TINY, "window": 7, "tie_word_embeddings": True}


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


@pytest.mark.parametrize(
    "right", [card(), card("Vectors", tasks=("embed",)), card("Labelled", tasks=("embed", "classify"))]
)
def test_a_right_model_passes(right: ModelCard) -> None:
    check_model(right, TINY, SLIDING)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (card("Restarting"), "a prompt in chunks of 8 and whole"),
        (card("Leaking"), "a prompt in a batch and alone"),
        (card("NoHalf"), "claims float16: NotImplementedError: no float16 here"),
        (card("Inexact"), "claims bfloat16: its logits: differs"),
        (card("Silent"), "head borrows the embedding although tie_word_embeddings is false"),
        (card(config="ForgottenWindow"), "claims sliding attention, but no configuration"),
        (card(config="ForgottenWindow", attention=()), "attention_requirements() announces"),
        (card(attention=()), "asks for sliding attention, which its card does not claim"),
        (card(config="Choosy", architectures=("SmallForCausalLM", "Other")), "claims the architecture Other"),
        (card(attention=("sliding", "softcap")), "claims softcap attention"),
        (card(dtypes=("float32", "float8_e4m3fn")), "claims float8_e4m3fn"),
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

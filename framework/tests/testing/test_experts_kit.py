"""check_kernel and check_model for experts: what passes, and what each wrong kernel and model is told."""

from __future__ import annotations

from typing import Any
from unittest import SkipTest

import pytest
from kit_config import TINY
from pydantic import ValidationError

from dovetail.api import ModelCard, QuantKernelCard
from dovetail.testing import check_kernel, check_model, random_checkpoint, sample_experts, sample_weights
from dovetail.testing.models import Case, check_dtypes, check_forms, check_layer_kinds
from dovetail.testing.registration import wrong_target


def kernel_card(target: str = "Right", **claims: Any) -> QuantKernelCard:
    return QuantKernelCard(
        name="product",
        **{
            "target": f"kit_experts:{target}",
            "packings": ("affine",),
            "devices": ("cpu",),
            "dtypes": ("float32", "bfloat16"),
            "kinds": ("experts",),
            **claims,
        },
    )


def model_card(target: str = "Mixture", **claims: Any) -> ModelCard:
    return ModelCard(
        name="small",
        **{
            "architectures": ("SmallForCausalLM",),
            "target": f"kit_experts:{target}",
            "config": "kit_config:SmallConfig",
            "layer_kinds": ("linear", "head", "embedding", "experts"),
            **claims,
        },
    )


def test_a_right_kernel_passes() -> None:
    check_kernel(kernel_card())
    check_kernel(kernel_card(packings=("*",), devices=("*",), dtypes=("float16",)))
    check_kernel(kernel_card(packings=("novel",), dtypes=("float32",)), [named("novel")])


def named(type_: str) -> Any:
    """Experts in a packing of a plugin's own."""
    experts = sample_experts("dense")[1]
    for weight in (*experts.gate, *experts.up, *experts.down):
        object.__setattr__(weight, "type", type_)
    return experts


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (kernel_card("OnePercent"), "claims experts in float32 (here 5 of type affine [96, 64] on cpu, as they are)"),
        (kernel_card("WithoutBias"), "on cpu, with biases): 1 tokens: differs"),
        (kernel_card("EveryRank"), "on cpu, some of them, on one rank): "),
        (kernel_card("InPlace"), "its arguments are changed"),
        (
            kernel_card("Wide"),
            "claims experts in bfloat16 (here 5 of type affine [96, 64] on cpu, as they are): the kernel product answered a product "
            "with Tensor of torch.float32 [1, 64], wanted a tensor of torch.bfloat16 [1, 64]",
        ),
        (kernel_card("Random"), "the same call gives other bits the second time"),
        (kernel_card("Picky"), "claims affine in experts layers, but declines all: takes no experts today"),
        (kernel_card(packings=("affine", "novel")), "claims novel, for which no experts are given"),
        (kernel_card("NotACall"), "kit_experts:NotACall lacks __call__, __init__, nbytes of dovetail.nn.ExpertsKernel"),
    ],
)
def test_what_is_wrong_with_a_kernel_is_said(wrong: QuantKernelCard, told: str) -> None:
    with pytest.raises(AssertionError, match="kernel 'product'") as failure:
        check_kernel(wrong)
    assert told in str(failure.value)


def test_experts_and_matrices_are_not_mixed_up() -> None:
    with pytest.raises(AssertionError, match="is for experts, so the kit needs ExpertWeights"):
        check_kernel(kernel_card(), sample_weights("affine"))
    matrices = QuantKernelCard(
        name="product", target="kit_quant:Product", packings=("affine",), devices=("cpu",), dtypes=("float32",)
    )
    with pytest.raises(AssertionError, match="is for matrices, so the kit needs those"):
        check_kernel(matrices, sample_experts("affine"))
    with pytest.raises(ValidationError, match="have a card of their own"):
        kernel_card(kinds=("experts", "linear"))


def test_a_probe_skips_with_its_reason() -> None:
    with pytest.raises(SkipTest, match="this machine is the wrong one"):
        check_kernel(kernel_card(probe="kit_attention:no"))


def test_the_target_of_a_card_is_of_its_kind() -> None:
    assert wrong_target(kernel_card()) is None
    told = wrong_target(kernel_card().model_copy(update={"kinds": ("linear",)}))
    assert told == "kernel 'product': its target is not a subclass of dovetail.nn.WeightKernel"
    told = wrong_target(kernel_card(target="Mixture"))
    assert told == "kernel 'product': its target is not a subclass of dovetail.nn.ExpertsKernel"
    assert (
        wrong_target(kernel_card(target="NotACall")) == "kernel 'product': its target lacks __call__, __init__, nbytes"
    )


@pytest.mark.parametrize("target", ["Mixture", "Stacked"])
def test_a_right_model_passes(target: str) -> None:
    check_model(model_card(target), TINY)


def test_experts_that_rounding_chooses_are_no_fault_of_a_model() -> None:
    check_dtypes(Case(model_card("Undecided"), TINY))
    told = "model 'small' claims float16: the logits of its router, in call 1 of 1: differs"
    with pytest.raises(AssertionError, match=told):
        check_dtypes(Case(model_card("Misrouting"), TINY))


def test_a_checkpoint_is_made_in_the_only_form_that_there_is() -> None:
    tensors = random_checkpoint(model_card("Stacked"), TINY)
    shapes = {name: list(value.shape) for name, value in tensors.items() if name.startswith(("gate_up", "down", "exp"))}
    assert shapes == {"gate_up": [4, 32, 96], "gate_up_bias": [4, 96], "down": [4, 32, 48], "down_bias": [4, 32]}
    assert any(name.startswith("experts.0.up") for name in random_checkpoint(model_card(), TINY))


def test_a_form_that_cannot_be_read_is_said() -> None:
    told = r"model 'small': a checkpoint with ups, ups_bias: CheckpointError: .*missing: .*experts\.0\.up\.weight"
    with pytest.raises(AssertionError, match=told):
        check_forms(Case(model_card("Dropping"), TINY))


def test_kinds_of_layers_are_compared_with_the_card() -> None:
    def check(card: ModelCard) -> None:
        check_layer_kinds(card, [Case(card, TINY)])

    check(model_card())
    with pytest.raises(AssertionError, match=r"experts\.0\.gate is of the kind experts, which its card does not list"):
        check(model_card(layer_kinds=("linear", "head", "embedding")))
    with pytest.raises(
        AssertionError, match="lists layers of the kind experts, but no configuration given here has them"
    ):
        check(model_card().model_copy(update={"target": "kit_models:Small"}))

"""The conformance kit on the cards of the platform and its attention."""

from __future__ import annotations

import dovetail_backends_cuda
import pytest
import torch
from dovetail_backends_cuda.operations import OPERATIONS

from dovetail.api import AttentionFeature, AttentionRequirement, PlatformCard
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.resolve import find_attention
from dovetail.nn.ops import REFERENCES
from dovetail.testing import check_attention, check_platform, check_registration, make_registry
from dovetail.testing.platforms import SAMPLES, check_operation

ATTENTION = next(card for card in dovetail_backends_cuda.dovetail_register_attention() if card.name == "cuda-torch")


def test_registration() -> None:
    check_registration(dovetail_backends_cuda)


@pytest.mark.parametrize("card", dovetail_backends_cuda.dovetail_register_platforms(), ids=lambda c: c.name)
def test_every_claim_of_the_platform(card: PlatformCard) -> None:
    check_platform(card)


def test_every_claim_of_the_backend() -> None:
    check_attention(ATTENTION)


def test_the_backend_does_the_same_without_its_kernel() -> None:
    # Its plain products run on any device, and are what it does with float32 and odd head sizes.
    check_attention(ATTENTION.model_copy(update={"devices": ("cpu",), "probe": None}))


@pytest.mark.parametrize(("features", "chosen"), [((), "cuda-paged"), (("alibi",), "cuda-torch")])
def test_what_the_kernel_does_not_know_falls_to_the_other(features: tuple[AttentionFeature, ...], chosen: str) -> None:
    cards = [card.model_copy(update={"probe": None}) for card in dovetail_backends_cuda.dovetail_register_attention()]
    needs = (AttentionRequirement(features=frozenset(features), head_dim=64),)
    choice = find_attention(PlanOptions(), needs, "cuda", "bfloat16", "bfloat16", make_registry(*cards), [])
    assert choice.part.name == chosen
    reasons = {rejected.name: rejected.reason for rejected in choice.rejected}
    if features:
        assert reasons["cuda-paged"] == "does shared_cache, sinks, sliding, softcap attention, not alibi"


def test_odd_head_sizes() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    changes = {"features": ("sliding", "value_dim", "latent"), "head_dims": (20, 264, (276, 20))}
    check_attention(ATTENTION.model_copy(update={"devices": (device,), "probe": None, **changes}))


@pytest.mark.parametrize("name", ["rms_norm", "add_rms_norm", "layer_norm", "add_layer_norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_norms_do_the_same_on_any_device(name: str, dtype: torch.dtype) -> None:
    for arguments in SAMPLES[name](dtype):
        check_operation(OPERATIONS[name], REFERENCES[name], arguments, torch.device("cpu"), name)

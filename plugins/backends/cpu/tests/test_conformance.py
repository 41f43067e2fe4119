"""The conformance kit on the cards of the platform, its attention and its kernel."""

import dovetail_backends_cpu
import pytest

from dovetail.api import AttentionCard, PlatformCard, QuantKernelCard
from dovetail.testing import check_attention, check_kernel, check_platform, check_registration


def test_registration() -> None:
    check_registration(dovetail_backends_cpu)


@pytest.mark.parametrize("card", dovetail_backends_cpu.dovetail_register_platforms(), ids=lambda c: c.name)
def test_every_claim_of_a_platform(card: PlatformCard) -> None:
    check_platform(card)


@pytest.mark.parametrize("card", dovetail_backends_cpu.dovetail_register_attention(), ids=lambda c: c.name)
def test_every_claim_of_a_backend(card: AttentionCard) -> None:
    check_attention(card)


@pytest.mark.parametrize("card", dovetail_backends_cpu.dovetail_register_quantization(), ids=lambda c: c.name)
def test_every_claim_of_a_kernel(card: QuantKernelCard) -> None:
    # Scales and zeros are rounded to bfloat16 too, and products of two planes are added.
    check_kernel(card, limits={"bfloat16": 0.02})

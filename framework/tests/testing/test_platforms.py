"""check_platform: what passes, and what each wrong platform is told."""

from dataclasses import replace
from typing import Any
from unittest import SkipTest

import pytest
import torch

from dovetail.api import PlatformCard
from dovetail.nn.ops import REFERENCES
from dovetail.testing import OperationSample, check_platform
from dovetail.testing.harness import one_thread
from dovetail.testing.invariance import ARGUMENTS
from dovetail.testing.platforms import SAMPLES


def card(target: str = "Right", **claims: Any) -> PlatformCard:
    return PlatformCard(name="under-test", **{"device": "cpu", "target": f"kit_platform:{target}", **claims})


def test_every_operation_has_samples() -> None:
    assert set(SAMPLES) == set(REFERENCES)


def test_every_operation_has_arguments_to_compare_rows_with() -> None:
    assert set(ARGUMENTS) == set(REFERENCES) - {"lay_out"}, "which changes no numbers"


def test_a_right_platform_passes() -> None:
    check_platform(card())


@one_thread()
def test_a_platform_that_is_batch_invariant_passes() -> None:
    check_platform(card("Invariant", dtypes=("float32",)))


@one_thread()
def test_a_platform_that_is_not_batch_invariant_is_told() -> None:
    with pytest.raises(AssertionError, match=r"batch invariant: linear in float32 gives rows 0 to 0 other bits alone"):
        check_platform(card("Crowded", dtypes=("float32",)))


HALVE = {"package.halve": OperationSample(lambda x: x / 2, lambda dtype: [(torch.randn(9, 8).to(dtype),)])}


@one_thread()
def test_an_operation_of_a_plugin_is_compared_with_the_reference_that_is_given() -> None:
    check_platform(card("OfPlugin", dtypes=("float32",)), HALVE)
    third = {"package.halve": replace(HALVE["package.halve"], reference=lambda x: x / 3)}
    with pytest.raises(
        AssertionError, match=r"operation package\.halve in float32: differs from the reference by 0\.5"
    ):
        check_platform(card("OfPlugin", dtypes=("float32",)), third)
    with pytest.raises(AssertionError, match=r"package\.halve in float32, which a plugin adds: give check_platform"):
        check_platform(card("OfPlugin", dtypes=("float32",)))
    with pytest.raises(AssertionError, match=r"invariant: package\.halve in float32 gives rows 0 to 0 other bits"):
        check_platform(card("OfPluginCrowded", dtypes=("float32",)), HALVE)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (card("RoundsFirst"), "claims the operation rms_norm in bfloat16: differs from the reference"),
        (card("StaysWide"), "claims the operation softcap in bfloat16: the result is torch.float32"),
        (card("OnePercent"), "claims the operation silu_mul in float32: differs from the reference by 0.01"),
        (card("InPlace"), "an argument is changed"),
        (card("Inventive"), "claims the operations no_such_operation"),
        (card("Elsewhere"), "claims the device cpu, but is meta"),
        (card("Boundless"), "kv_cache_bytes() is out of memory's bounds"),
        (card("Shrinking"), "kv_cache_bytes() does not grow"),
        (card("Unreserving"), "where all memory is reserved"),
        (card("Numbered"), "the platform under-test answered memory() with int 5, wanted a Memory"),
        (card("Overfull"), "memory() says 2 of 1 bytes free"),
        (card(default_dtype="bfloat16", dtypes=("float32",)), "its default dtype bfloat16 is not claimed"),
        (card(dtypes=("float32", "int4")), "claims int4"),
        (card("no_such_class"), "making its platform"),
        (card(probe="kit_attention:broken"), "its probe failed"),
    ],
)
def test_what_is_wrong_is_said(wrong: PlatformCard, told: str) -> None:
    with pytest.raises(AssertionError, match="platform 'under-test'") as failure:
        check_platform(wrong)
    assert told in str(failure.value)


def test_a_probe_s_objection_skips_with_its_reason() -> None:
    with pytest.raises(SkipTest, match="this machine is the wrong one"):
        check_platform(card(probe="kit_attention:no"))

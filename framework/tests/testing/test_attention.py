"""check_attention: what passes, and what each wrong backend is told."""

from typing import Any
from unittest import SkipTest

import pytest
import torch

from dovetail.api import AttentionCard
from dovetail.nn import AttentionSpec
from dovetail.testing import BlockTables, ReferenceAttention, check_attention


def card(target: str = "Right", **claims: Any) -> AttentionCard:
    return AttentionCard(
        name="under-test",
        **{
            "target": f"kit_attention:{target}",
            "devices": ("cpu",),
            "dtypes": ("float32", "float16"),
            "kinds": ("full", "sliding"),
            **claims,
        },
    )


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"head_dims": (32, 96), "block_sizes": (8, 64), "kinds": ("sliding",), "dtypes": ("bfloat16",)},
        {"kv_dtypes": ("float16",), "dtypes": ("float32",), "devices": ("*",)},
    ],
)
def test_a_right_backend_passes(claims: dict[str, Any]) -> None:
    check_attention(card(**claims))


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("Unmasked", "claims full attention in float32"),
        ("Windowless", "claims sliding attention in float32"),
        ("OffByOne", "claims sliding attention in float32"),
        ("WholeBlocks", "of mixed batches"),
        ("Contiguous", "of mixed batches"),
        ("WrongHeads", "6/2 heads"),
        ("Mutating", "q is changed"),
        ("Greedy", "block_bytes() says"),
        ("NoHalf", "claims full attention in float16"),
        ("Large", "heads of 128"),
        ("no_such_class", "cannot import"),
    ],
)
def test_what_is_wrong_is_said(target: str, told: str) -> None:
    with pytest.raises(AssertionError, match="attention 'under-test'") as failure:
        check_attention(card(target))
    assert told in str(failure.value)


CLAIMS: dict[str, Any] = {"dtypes": ("float32",), "head_dims": (16,), "block_sizes": (32,)}


def test_a_backend_that_is_batch_invariant_passes() -> None:
    check_attention(card("Invariant", **CLAIMS))


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("Crowded", r"32: the request computed decoded in a batch gives other bits than whole, at tokens \[0, 1, 2"),
        ("Placed", r"32: the request computed in chunks gives other bits than whole, at tokens \[1, 3, 6"),
    ],
)
def test_a_backend_that_is_not_batch_invariant_is_told(target: str, told: str) -> None:
    with pytest.raises(AssertionError, match=f"claims to be batch invariant: full attention.* {told}"):
        check_attention(card(target, **CLAIMS))


def test_a_kind_without_a_reference_is_not_passed_over() -> None:
    with pytest.raises(AssertionError, match="claims softcap attention, for which the reference is missing"):
        check_attention(card(kinds=("full", "softcap")))


def test_a_probe_s_objection_skips_with_its_reason() -> None:
    with pytest.raises(SkipTest, match="this machine is the wrong one"):
        check_attention(card(probe="kit_attention:no"))
    with pytest.raises(AssertionError, match="its probe failed"):
        check_attention(card(probe="kit_attention:broken"))


def test_a_device_that_is_not_here_skips() -> None:
    with pytest.raises(SkipTest, match="runs on faraway"):
        check_attention(card(devices=("faraway",)))


@pytest.mark.parametrize("window", [None, 3])
def test_the_reference_is_the_textbook_s_formula(window: int | None) -> None:
    """Against one dense softmax over a whole sequence, written out here."""
    spec = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, scale=0.3, window=window)
    backend = ReferenceAttention(device=torch.device("cpu"), dtype=torch.float32, kv_dtype=torch.float32, block_size=4)
    torch.manual_seed(0)
    q, k, v = torch.randn(11, 4, 8), torch.randn(11, 2, 8), torch.randn(11, 2, 8)
    tables = BlockTables([11], 4)
    step = tables.step({0: [0] * 11}, torch.device("cpu"))
    out = backend.forward(q, k, v, backend.allocate(spec, tables.blocks), step, step.kv[0], spec)
    for head in range(4):
        scores = q[:, head] @ k[:, head // 2].T * 0.3
        unseen = torch.ones(11, 11).triu(1).bool()
        if window:
            unseen |= torch.ones(11, 11).tril(-window).bool()
        wanted = scores.masked_fill(unseen, float("-inf")).softmax(-1) @ v[:, head // 2]
        torch.testing.assert_close(out[:, head], wanted)

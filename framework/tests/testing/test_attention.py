"""check_attention: what passes, and what each wrong backend is told."""

from typing import Any
from unittest import SkipTest

import pytest
import torch

from dovetail.api import AttentionCard
from dovetail.nn import AttentionSpec
from dovetail.testing import BlockTables, ReferenceAttention, check_attention
from dovetail.testing.attention import combine_features

CLAIMS: dict[str, Any] = {"dtypes": ("float32",), "head_dims": (16, (24, 16)), "block_sizes": (32,)}
EVERYTHING = ReferenceAttention.features


def card(target: str = "Right", **claims: Any) -> AttentionCard:
    return AttentionCard(
        name="under-test",
        **{
            "target": f"kit_attention:{target}",
            "devices": ("cpu",),
            "dtypes": ("float32", "float16"),
            "features": ("sliding",),
            **claims,
        },
    )


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"head_dims": (32, 96), "block_sizes": (8, 64), "features": ("sliding",), "dtypes": ("bfloat16",)},
        {"kv_dtypes": ("float16",), "dtypes": ("float32",), "devices": ("*",), "features": ()},
        {"features": EVERYTHING, **CLAIMS},
        {"features": ("sliding", "softcap", "sinks"), "exclusive": (("softcap", "sinks"),), **CLAIMS},
        {"features": ("value_dim",), "head_dims": (64, (96, 64))},
        {"features": ("latent",), "head_dims": ((96, 64),), "dtypes": ("bfloat16",)},
    ],
)
def test_a_right_backend_passes(claims: dict[str, Any]) -> None:
    check_attention(card(**claims))


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("Unmasked", "claims plain attention in float32"),
        ("Windowless", "claims sliding attention in float32"),
        ("OffByOne", "claims sliding attention in float32"),
        ("WholeBlocks", "of mixed batches"),
        ("Contiguous", "of mixed batches"),
        ("WrongHeads", "6/2 heads"),
        ("Mutating", "q is changed"),
        ("Greedy", "block_bytes() says"),
        ("NoHalf", "claims plain attention in float16"),
        ("Large", "heads of 128"),
        ("no_such_class", "cannot import"),
    ],
)
def test_what_is_wrong_is_said(target: str, told: str) -> None:
    with pytest.raises(AssertionError, match="attention 'under-test'") as failure:
        check_attention(card(target))
    assert told in str(failure.value)


@pytest.mark.parametrize(
    ("target", "features", "told"),
    [
        ("Uncapped", ("softcap",), "claims softcap attention"),
        ("Sinkless", ("sinks",), "claims sinks attention"),
        ("Unbiased", ("alibi",), "claims alibi attention"),
        ("OneSlope", ("alibi",), "claims alibi attention"),
        ("BiasedFirst", ("softcap", "alibi"), "claims softcap+alibi attention"),
        ("Windowed", ("chunked",), "claims chunked attention"),
        ("Causal", ("bidirectional",), "claims bidirectional attention"),
        ("OneSided", ("sliding", "bidirectional"), "claims sliding+bidirectional attention"),
        ("LastChannels", ("latent",), "claims latent attention"),
        ("CapsAfterSinks", ("softcap", "sinks"), "claims softcap+sinks attention"),
        ("Owning", ("shared_cache",), "no cache of its own, block_bytes"),
    ],
)
def test_a_feature_that_is_done_wrongly_is_named(target: str, features: tuple[str, ...], told: str) -> None:
    with pytest.raises(AssertionError, match="attention 'under-test'") as failure:
        check_attention(card(target, features=features, **CLAIMS))
    assert told in str(failure.value)


def test_only_what_goes_together_is_combined() -> None:
    found = combine_features(card(features=EVERYTHING, exclusive=(("sinks", "value_dim"),)))
    pairs = {features for features in found if len(features) == 2}
    assert pairs >= {
        ("sliding", "softcap"),
        ("sliding", "sinks"),
        ("softcap", "value_dim"),
        ("sliding", "shared_cache"),
    }
    assert not pairs & {("sliding", "chunked"), ("sinks", "value_dim"), ("bidirectional", "latent")}
    assert ("sliding", "softcap", "sinks", "alibi", "bidirectional") in found, "as many as go together"
    assert ("chunked", "softcap", "sinks", "alibi", "latent", "shared_cache") in found, "the same from the other end"


def test_exclusive_names_claimed_features() -> None:
    with pytest.raises(
        ValueError, match=r"exclusive holds \('sliding', 'sinks'\), wanted two or more of the card's features"
    ):
        card(exclusive=(("sliding", "sinks"),))


def test_sizes_of_values_are_claimed_as_pairs() -> None:
    with pytest.raises(AssertionError, match="claims value_dim, and its head_dims hold no pair of sizes"):
        check_attention(card(features=("value_dim",), head_dims=(16,)))


@pytest.mark.parametrize("target", ["Invariant", "OnlyPlain"])
def test_a_backend_that_is_batch_invariant_passes(target: str) -> None:
    check_attention(card(target, **CLAIMS))


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("Crowded", r"32: the request computed decoded in a batch gives other bits than whole, at tokens \[0, 1, 2"),
        ("Placed", r"32: the request computed in chunks gives other bits than whole, at tokens \[1, 3, 6"),
    ],
)
def test_a_backend_that_is_not_batch_invariant_is_told(target: str, told: str) -> None:
    with pytest.raises(AssertionError, match=f"claims to be batch invariant: plain attention.* {told}"):
        check_attention(card(target, **CLAIMS))


def test_a_feature_without_a_reference_is_not_passed_over() -> None:
    with pytest.raises(AssertionError, match="claims recurrent attention, for which the reference is missing"):
        check_attention(card(features=("recurrent",)))


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

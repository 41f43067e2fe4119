"""Radix selection against a stable sort, token by token."""

from __future__ import annotations

import math

import pytest
import torch

from dovetail.engine.sampling.draw import compute_weights, draw_sorted
from dovetail.engine.sampling.top_p_radix import build_order_keys, draw_filtered


def test_keys_order_as_a_stable_sort_does() -> None:
    scores = torch.tensor([[0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, 1e-45, -1e-45, 3e38, 1.0]])
    keys = build_order_keys(scores)
    assert torch.equal(keys.argsort(stable=True), scores.argsort(descending=True, stable=True))
    assert keys[0, 0] == keys[0, 1]
    assert keys.min() >= 0
    assert keys.max() < 2**32


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("vocabulary", [1, 70, 5000])
def test_the_token_is_that_of_a_sorted_vocabulary(vocabulary: int, coarse: bool) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    lines = 300
    scores = torch.randn(lines, vocabulary, generator=generator) * 3
    if coarse:
        scores.round_()
    scores[0:lines:7, : vocabulary // 2] = -math.inf
    temperatures = torch.rand(lines, generator=generator) * 2 + 0.05
    floors = (torch.rand(lines, generator=generator) ** 9 * 2**40).long()
    top_k = torch.randint(1, 2 * vocabulary + 1, (lines,), generator=generator)
    top_p = torch.randint(0, 2**31 + 1, (lines,), generator=generator)
    uniforms = torch.randint(0, 2**31, (lines,), generator=generator)
    top = scores.amax(-1, keepdim=True)
    ordered, ids = scores.sort(dim=-1, descending=True, stable=True)
    sorted_weights = compute_weights(ordered, top, temperatures, floors)
    for k in (top_k, None):
        weights = compute_weights(scores, top, temperatures, floors)
        every = torch.full_like(top_k, vocabulary) if k is None else k
        place = draw_sorted(sorted_weights.clone(), every, top_p, uniforms)
        assert torch.equal(draw_filtered(scores, weights, k, top_p, uniforms), ids.gather(1, place[:, None])[:, 0])

"""Loading weights: what is told meanwhile."""

from __future__ import annotations

import torch

from dovetail.nn import Context, Ops
from dovetail.nn.dense import DenseFormat, DenseKernel
from dovetail.nn.loading import WeightChoice, WeightReader
from dovetail.testing import lazy_tensors


def test_progress_goes_by_the_weights_sizes() -> None:
    ctx = Context(device=torch.device("cpu"), dtype=torch.float32, ops=Ops(), attention=None, max_tokens=1)  # type: ignore[arg-type]
    ctx.linear("small", 4, 2)
    ctx.linear("large", 8, 10)
    reader = WeightReader(ctx, [WeightChoice("linear", "float32", DenseFormat, [("dense", DenseKernel)])], {})
    told: list[tuple[int, int]] = []
    tensors = lazy_tensors({"small.weight": torch.zeros(2, 4), "large.weight": torch.zeros(10, 8)})
    reader.load(tensors, lambda done, total: told.append((done, total)))
    assert told == [(0, 88), (8, 88), (88, 88)]

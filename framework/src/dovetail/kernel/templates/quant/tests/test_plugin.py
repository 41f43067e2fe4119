"""The conformance kit on the format's card, and what the kit cannot know."""

from __future__ import annotations

import pytest
import torch
from dovetail.api import CheckpointError
from dovetail.nn import WeightName
from dovetail.testing import WeightSample, check_format, check_registration, lazy_tensors

import PLUGIN_MODULE
from PLUGIN_MODULE.format import PLUGIN_CLASSFormat

(CARD,) = PLUGIN_MODULE.dovetail_register_quantization()


def sample(rows: int, columns: int) -> WeightSample:
    """A weight as a checkpoint holds it, and what it stands for by the formula written out."""
    generator = torch.Generator().manual_seed(rows)
    codes = torch.randint(-128, 128, (rows, columns), generator=generator, dtype=torch.int8)
    scales = torch.rand(rows, generator=generator)
    weight, scale = lazy_tensors({"layer.weight": codes, "layer.weight_scale": scales})
    return WeightSample({".weight": weight, ".weight_scale": scale}, codes.float() * scales[:, None])


def test_registration() -> None:
    check_registration(PLUGIN_MODULE)


def test_every_claim() -> None:
    check_format(CARD, [sample(37, 24), sample(1, 7)])


def test_scales_of_another_number_are_refused() -> None:
    weight, scale = lazy_tensors({"layer.weight": torch.ones(3, 4).char(), "layer.weight_scale": torch.ones(2)})
    tensors = {".weight": weight, ".weight_scale": scale}
    name, cpu = WeightName("layer", "linear"), torch.device("cpu")
    with pytest.raises(CheckpointError, match=r"layer\.weight_scale is \[2\], wanted \[3\]"):
        PLUGIN_CLASSFormat({}).load(name, tensors, cpu, torch.float32)

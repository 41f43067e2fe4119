"""The conformance kit on weights that AutoAWQ packed (``make_reference.py``), and what configurations say of layers."""

from __future__ import annotations

from pathlib import Path

import dovetail_quant_awq
import pytest
import torch
from dovetail_quant_awq.config import AwqConfig
from dovetail_quant_awq.format import AwqFormat

from dovetail.api import CheckpointError
from dovetail.nn import WeightName
from dovetail.testing import WeightSample, check_format, check_registration, lazy_tensors

(CARD,) = dovetail_quant_awq.dovetail_register_quantization()
CPU = torch.device("cpu")
UP = WeightName("model.layers.0.mlp.up_proj", "linear")


def samples() -> dict[str, WeightSample]:
    found = {}
    for name, case in torch.load(Path(__file__).with_name("reference.pt")).items():
        parts = {part: value for part, value in case.items() if part.startswith(".")}
        lazy = lazy_tensors({f"layer{part}": value for part, value in parts.items()})
        found[name] = WeightSample(dict(zip(parts, lazy, strict=True)), case["dense"].float(), config=case["config"])
    return found


SAMPLES = samples()


def test_registration() -> None:
    check_registration(dovetail_quant_awq)


@pytest.mark.parametrize("name", SAMPLES)
def test_what_autoawq_packed(name: str) -> None:
    check_format(CARD, [SAMPLES[name]])


@pytest.mark.parametrize("version", ["gemm", "gemv"])
def test_symmetric_weights_may_lack_zero_points(version: str) -> None:
    sample = SAMPLES[f"{version}, groups of 64, symmetric"]
    tensors = {part: value for part, value in sample.tensors.items() if part != ".qzeros"}
    check_format(CARD, [WeightSample(tensors, sample.dense, config=sample.config)])


def test_zero_points_in_the_middle_take_no_memory() -> None:
    for name, sample in SAMPLES.items():
        reader = AwqFormat(AwqConfig.model_validate(dict(sample.config)))
        packed = reader.load(UP, sample.tensors, CPU, torch.float32).pack("affine")
        assert packed is not None
        assert (packed.mins is None) == ("symmetric" in name)


def test_the_older_file_has_other_keys() -> None:
    found = AwqConfig.model_validate({"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMV"})
    assert (found.bits, found.group_size, found.version) == (4, 64, "gemv")


def test_another_group_size_than_the_tensors_have_is_refused() -> None:
    sample = SAMPLES["gemm, groups of 64, with zero-points"]
    reader = AwqFormat(AwqConfig.model_validate({**sample.config, "group_size": 32}))
    with pytest.raises(CheckpointError, match=r"layer\.scales is \[4, 32\], wanted \[8, 32\]"):
        reader.load(UP, sample.tensors, CPU, torch.float32)


@pytest.mark.parametrize(
    ("key", "value"),
    [("bits", 3), ("group_size", 0), ("version", "gemv_fast"), ("version", "marlin"), ("backend", "llm-awq")],
)
def test_what_cannot_be_read_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        AwqConfig.model_validate({"bits": 4, "group_size": 128, key: value})

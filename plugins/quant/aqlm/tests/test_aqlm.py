"""The conformance kit on weights that AQLM dequantized (``make_reference.py``), and what cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dovetail_quant_aqlm
import pytest
import torch
from dovetail_quant_aqlm.config import AqlmConfig
from dovetail_quant_aqlm.format import AqlmFormat

from dovetail.api import CheckpointError
from dovetail.nn import WeightName
from dovetail.testing import WeightSample, check_format, check_registration, lazy_tensors

(CARD,) = dovetail_quant_aqlm.dovetail_register_quantization()
UP = WeightName("model.layers.0.mlp.up_proj", "linear")
CASES = torch.load(Path(__file__).with_name("reference.pt"))


def make_sample(case: dict[str, Any]) -> WeightSample:
    parts = {part: value for part, value in case.items() if part.startswith(".")}
    lazy = lazy_tensors({f"layer{part}": value for part, value in parts.items()})
    return WeightSample(dict(zip(parts, lazy, strict=True)), case["dense"].float(), config=case["config"])


def check(case: dict[str, Any]) -> None:
    sample = make_sample(case)
    check_format(CARD.model_copy(update={"types": {sample.type: CARD.types[sample.type]}}), [sample])


def test_registration() -> None:
    check_registration(dovetail_quant_aqlm)


@pytest.mark.parametrize("name", CASES)
def test_what_aqlm_dequantized(name: str) -> None:
    check(CASES[name])


def test_codes_of_16_bits() -> None:
    """A table of 65536 vectors, of which the last ones are those of 10 bits."""
    case = CASES["1x10"]
    whole = torch.zeros(1, 1 << 16, 1, 8, dtype=torch.float16)
    whole[:, -1024:] = case[".codebooks"]
    codes = (case[".codes"].int() & 1023) - 1024
    config = {**case["config"], "nbits_per_codebook": 16}
    check({**case, "config": config, ".codebooks": whole, ".codes": codes.to(torch.int16)})


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_codebooks": 2}, r"layer\.codes is \[36, 8, 1\], wanted \[36, 8, 2\]"),
        ({"nbits_per_codebook": 8}, r"layer\.codes is of type int16, wanted int8"),
        ({"nbits_per_codebook": 12}, r"layer\.codebooks is \[1, 1024, 1, 8\], wanted \[1, 4096, 1, 8\]"),
        ({"in_group_size": 4}, r"layer\.codebooks is \[1, 1024, 1, 8\], wanted \[1, 1024, 1, 4\]"),
    ],
    ids=str,
)
def test_another_configuration_is_refused(keys: dict[str, Any], told: str) -> None:
    sample = make_sample(CASES["1x10"])
    reader = AqlmFormat(AqlmConfig.model_validate({**sample.config, **keys}))
    with pytest.raises(CheckpointError, match=told):
        reader.load(UP, sample.tensors, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("key", "value"),
    [("out_group_size", 2), ("nbits_per_codebook", 17), ("num_codebooks", 0), ("in_group_size", 0)],
)
def test_what_cannot_be_read_is_refused(key: str, value: int) -> None:
    with pytest.raises(ValueError, match=key):
        AqlmConfig.model_validate({key: value})

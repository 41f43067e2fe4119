"""The conformance kit on weights that bitsandbytes quantized (``make_reference.py``), and on damaged descriptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dovetail_quant_bitsandbytes
import pytest
import torch
from dovetail_quant_bitsandbytes.config import BitsAndBytesConfig
from dovetail_quant_bitsandbytes.format import BitsAndBytesFormat

from dovetail.api import CheckpointError, LazyTensor
from dovetail.nn import WeightName
from dovetail.testing import WeightSample, check_format, check_registration, lazy_tensors

(CARD,) = dovetail_quant_bitsandbytes.dovetail_register_quantization()
CPU = torch.device("cpu")
UP = WeightName("model.layers.0.mlp.up_proj", "linear")
CASES = torch.load(Path(__file__).with_name("reference.pt"))
STATE = ".weight.quant_state.bitsandbytes__nf4"


def make_sample(case: dict[str, Any]) -> WeightSample:
    parts = {name: value for name, value in case.items() if name.startswith(".")}
    lazy = lazy_tensors({f"layer{name}": value for name, value in parts.items()})
    return WeightSample(dict(zip(parts, lazy, strict=True)), case["dense"], config=case["config"])


def test_registration() -> None:
    check_registration(dovetail_quant_bitsandbytes)


@pytest.mark.parametrize("name", CASES)
def test_what_bitsandbytes_quantized(name: str) -> None:
    sample = make_sample(CASES[name])
    check_format(CARD.model_copy(update={"types": {sample.type: CARD.types[sample.type]}}), [sample])


def described(changes: dict[str, Any] | bytes) -> tuple[BitsAndBytesFormat, dict[str, LazyTensor]]:
    """A weight whose description has some values changed, or is something else."""
    case = CASES["nf4, blocks of 64, double"]
    text = changes
    if isinstance(changes, dict):
        text = json.dumps({**json.loads(bytes(case[STATE].tolist())), **changes}).encode()
    sample = make_sample({**case, STATE: torch.tensor(list(text), dtype=torch.uint8)})
    return BitsAndBytesFormat(BitsAndBytesConfig.model_validate(sample.config)), dict(sample.tensors)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"shape": [36]}, "says that shape is"),
        ({"shape": [0, 128]}, "says that shape is"),
        ({"shape": [72, 128]}, r"weight\.absmax is \[72\], wanted \[144\]"),
        ({"shape": [36, 96]}, "blocks of 64 numbers, and rows of 96"),
        ({"blocksize": 0}, "says that blocksize is '0'"),
        ({"blocksize": "64"}, "says that blocksize is '64'"),
        ({"nested_blocksize": None}, "says that nested_blocksize is 'None'"),
        ({"nested_offset": float("nan")}, "says that nested_offset is 'nan'"),
        (b"{", "holds no JSON"),
        (b"[" * 4000, "holds no JSON"),
        (b"[1]", "holds a JSON list"),
        (b"", r"is \[0\], wanted up to 4096 bytes"),
        (b" " * 5000, r"is \[5000\], wanted up to 4096 bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_description_that_cannot_be_is_refused(changes: dict[str, Any] | bytes, told: str) -> None:
    reader, tensors = described(changes)
    with pytest.raises(CheckpointError, match=told):
        reader.load(UP, tensors, CPU, torch.float32)


def test_the_order_of_tiles_is_refused() -> None:
    sample = make_sample({**CASES["int8"], ".weight_format": torch.tensor(2, dtype=torch.uint8)})
    reader = BitsAndBytesFormat(BitsAndBytesConfig(load_in_8bit=True))
    with pytest.raises(CheckpointError, match=r"weight_format is not 0, wanted the order of rows and columns"):
        reader.load(UP, sample.tensors, CPU, torch.float32)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, "one of load_in_4bit and load_in_8bit"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "one of load_in_4bit and load_in_8bit"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "af4"}, "bnb_4bit_quant_type"),
        ({"load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"}, "bnb_4bit_quant_storage"),
    ],
)
def test_what_cannot_be_read_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        BitsAndBytesConfig.model_validate(keys)

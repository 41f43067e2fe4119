"""The conformance kit on weights that HQQ quantized (``make_reference.py``), and what cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dovetail_quant_hqq
import pytest
import torch
from dovetail_quant_hqq.config import HqqConfig
from dovetail_quant_hqq.format import HqqFormat
from torch import Tensor

from dovetail.api import CheckpointError
from dovetail.nn import WeightName
from dovetail.testing import WeightSample, check_format, check_registration, lazy_tensors

(CARD,) = dovetail_quant_hqq.dovetail_register_quantization()
CPU = torch.device("cpu")
UP = WeightName("model.layers.0.mlp.up_proj", "linear")
CASES = torch.load(Path(__file__).with_name("reference.pt"))


def make_sample(name: str, **changes: Tensor) -> WeightSample:
    case = CASES[name]
    parts = {part: value for part, value in case.items() if part.startswith(".")}
    parts |= {f".{part}": value for part, value in changes.items()}
    lazy = lazy_tensors({f"layer{part}": value for part, value in parts.items()})
    tensors = dict(zip(parts, lazy, strict=True))
    return WeightSample(tensors, case["dense"], config=case["config"], packings=() if "axis 0" in name else None)


def test_registration() -> None:
    check_registration(dovetail_quant_hqq)


@pytest.mark.parametrize("name", CASES)
def test_what_hqq_quantized(name: str) -> None:
    sample = make_sample(name)
    check_format(CARD.model_copy(update={"types": {sample.type: CARD.types[sample.type]}}), [sample])


def test_scales_in_half_precision() -> None:
    name = "4 bits, axis 1, groups of 16"
    half = {part: CASES[name][f".{part}"].bfloat16() for part in ("scale", "zero")}
    found = HqqFormat(HqqConfig()).load(UP, make_sample(name, **half).tensors, CPU, torch.float32)
    assert torch.allclose(found.dense(torch.float32), CASES[name]["dense"], atol=0.1)


@pytest.mark.parametrize("name", ["4 bits, axis 1, groups of 16", "4 bits, axis 0, groups of 16"])
def test_codes_take_as_much_memory_as_in_the_file(name: str) -> None:
    words = HqqFormat(HqqConfig()).load(UP, make_sample(name).tensors, CPU, torch.float32).fields()["words"].data
    assert words.nbytes == CASES[name][".W_q"].nbytes


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"nbits": 5}, r"layer\.nbits is 5, wanted one of 1, 2, 3, 4, 8"),
        ({"axis": 2}, r"layer\.axis is 2, wanted one of 0, 1"),
        ({"group_size": 0}, r"layer\.group_size is 0, which does not divide the 64 columns"),
        ({"group_size": 128}, r"layer\.group_size is 128, which does not divide the 64 columns"),
        ({"axis": 0, "group_size": 64}, r"layer\.group_size is 64, which does not divide the 16 rows"),
        ({"nbits": 3}, r"layer\.shape says that the weight has 64 columns, wanted a multiple of 32 for 3 bits"),
        ({"view_as_float": 1}, "codes that are viewed as floats are not supported"),
        ({"nbits": 8}, r"layer\.W_q is \[32, 16\], wanted \[64, 16\]"),
    ],
    ids=str,
)
def test_descriptions_that_cannot_be_are_refused(changes: dict[str, int], told: str) -> None:
    name = "4 bits, axis 1, groups of 16"
    shape = {"shape": torch.tensor([16, 64])}
    if "multiple" in told:
        shape = {"shape": torch.tensor([16, 80])}
        told = told.replace("64", "80")
    made = {
        part: torch.tensor(value, dtype=torch.uint8 if part == "view_as_float" else torch.int32)
        for part, value in changes.items()
    }
    with pytest.raises(CheckpointError, match=told):
        HqqFormat(HqqConfig()).load(UP, make_sample(name, **shape, **made).tensors, CPU, torch.float32)


PARAMS: dict[str, Any] = {"weight_quant_params": {"nbits": 4}}


@pytest.mark.parametrize("layers", [PARAMS, {"self_attn.q_proj": PARAMS, "mlp.up_proj": PARAMS}])
def test_one_configuration_or_one_for_each_name(layers: dict[str, Any]) -> None:
    found = HqqConfig.model_validate({"quant_config": layers})
    assert [layer.weight_quant_params for layer in found.quant_config.values()] == [{"nbits": 4}] * (
        1 if layers is PARAMS else 2
    )


@pytest.mark.parametrize("key", ["scale_quant_params", "zero_quant_params"])
@pytest.mark.parametrize("named", [False, True])
def test_scales_that_are_quantized_too_are_refused(key: str, named: bool) -> None:
    layer = {**PARAMS, key: {"nbits": 8}}
    with pytest.raises(ValueError, match=key):
        HqqConfig.model_validate({"quant_config": {"mlp.up_proj": layer} if named else layer})

"""The conformance kit on weights that AutoAWQ packed (``make_reference.py``), and whose configurations say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dovetail_quant_marlin
import pytest
import torch
from dovetail_quant_marlin.config import MarlinConfig
from dovetail_quant_marlin.format import MarlinFormat

from dovetail.api import CheckpointError
from dovetail.nn import WeightName
from dovetail.testing import WeightSample, check_format, check_registration, lazy_tensors

(CARD,) = dovetail_quant_marlin.dovetail_register_quantization()
UP = WeightName("model.layers.0.mlp.up_proj", "linear")
CASES = torch.load(Path(__file__).with_name("reference.pt"))
MARLINS = {
    "its authors'": {"quant_method": "marlin"},
    "AutoGPTQ's": {"quant_method": "gptq", "checkpoint_format": "marlin", "sym": True, "desc_act": False},
    "AutoGPTQ's older": {"quant_method": "gptq", "is_marlin_format": True, "desc_act": False},
    "AutoAWQ's": {"quant_method": "awq", "version": "MARLIN", "zero_point": False},
}


def make_sample(name: str, **config: Any) -> WeightSample:
    case = CASES[name]
    named = {".qweight": ".B", ".scales": ".s"} if config.get("quant_method") == "awq" else {".B": ".B", ".s": ".s"}
    lazy = lazy_tensors({f"layer{part}": case[stored] for part, stored in named.items()})
    return WeightSample(dict(zip(named, lazy, strict=True)), case["dense"], config={**case["config"], **config})


def test_registration() -> None:
    check_registration(dovetail_quant_marlin)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("whose", MARLINS)
def test_what_was_packed_for_marlin(name: str, whose: str) -> None:
    card = CARD.model_copy(update={"methods": (MARLINS[whose]["quant_method"],)})
    check_format(card, [make_sample(name, **MARLINS[whose])])


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"group_size": 128}, r"layer\.B is \[16, 192\], wanted \[K / 16, N \* 2\] of N rows, a multiple of 64"),
        ({"group_size": 128, "rows": 15}, r"K columns, a multiple of 128"),
    ],
)
def test_tiles_that_are_not_whole_are_refused(config: dict[str, Any], told: str) -> None:
    rows, columns = config.get("rows", 16), 256 if "rows" in config else 192
    words, scales = lazy_tensors({"layer.B": torch.zeros(rows, columns).int(), "layer.s": torch.ones(2, 96).half()})
    with pytest.raises(CheckpointError, match=told):
        MarlinFormat(MarlinConfig.model_validate(config)).load(
            UP, {".B": words, ".s": scales}, torch.device("cpu"), torch.float32
        )


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"quant_method": "gptq"}, "checkpoint_format"),
        ({"quant_method": "gptq", "checkpoint_format": "gptq_v2"}, "checkpoint_format"),
        ({"quant_method": "awq", "version": "gemm"}, "checkpoint_format"),
        ({"bits": 8}, "bits"),
        ({"group_size": 64}, "group_size"),
        ({"sym": False}, "sym"),
        ({"desc_act": True}, "desc_act"),
        ({"zero_point": True}, "zero_point"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MarlinConfig.model_validate({"group_size": 128, **keys})

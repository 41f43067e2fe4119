"""The conformance kit on weights that compressed-tensors compressed (``make_reference.py``), and what configurations say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dovetail_quant_compressed_tensors
import pytest
import torch
from dovetail_quant_compressed_tensors.config import CompressedTensorsConfig
from dovetail_quant_compressed_tensors.format import CompressedTensorsFormat
from torch import Tensor

from dovetail.api import CheckpointError
from dovetail.nn import WeightName
from dovetail.testing import WeightSample, check_format, check_registration, lazy_tensors

(CARD,) = dovetail_quant_compressed_tensors.dovetail_register_quantization()
CPU = torch.device("cpu")
UP, QUERY, HEAD, EMBEDDING = (
    WeightName("model.layers.0.mlp.up_proj", "linear"),
    WeightName("model.layers.0.self_attn.q_proj", "linear"),
    WeightName("lm_head", "head"),
    WeightName("model.embed_tokens", "embedding"),
)


def make_sample(case: dict[str, Any], **more: Tensor) -> WeightSample:
    parts = {name: value for name, value in case.items() if name.startswith(".")}
    parts |= {f".{name}": value for name, value in more.items()}
    parts = dict(sorted(parts.items(), key=lambda part: part[0] not in (".weight", ".weight_packed")))
    lazy = lazy_tensors({f"layer{name}": value for name, value in parts.items()})
    config = case["config"]
    named = {}
    if (zeros := more.get("input_zero_point")) is None or not zeros.any():
        scale = more.get("input_scale")
        named = {"input_scale": scale} if scale is not None else {}
        if (whole := more.get("input_global_scale")) is not None:
            named = {"input_scale": 1 / whole}
    return WeightSample(dict(zip(parts, lazy, strict=True)), case["dense"], config=config, **named)


CASES = torch.load(Path(__file__).with_name("reference.pt"))
ROUNDED = {"nvfp4": 4e-3}
"""Where compressed-tensors gives its matrix back in bfloat16."""


def card_of(sample: WeightSample) -> Any:
    return CARD.model_copy(update={"types": {sample.type: CARD.types[sample.type]}})


def test_registration() -> None:
    check_registration(dovetail_quant_compressed_tensors)


@pytest.mark.parametrize("name", CASES)
def test_what_compressed_tensors_compressed(name: str) -> None:
    sample = make_sample(CASES[name])
    check_format(card_of(sample), [sample], limit=ROUNDED.get(name, 1e-6))


def test_scales_of_activations_reach_the_kernels() -> None:
    one = torch.tensor([0.5])
    for name, more in (
        ("int8 by channel", {"input_scale": one, "input_zero_point": torch.tensor([0], dtype=torch.int8)}),
        ("int8 by channel", {"input_scale": one, "input_zero_point": torch.tensor([3], dtype=torch.int8)}),
        ("fp8 by tensor", {"input_scale": one}),
        ("nvfp4", {"input_global_scale": torch.tensor([4.0])}),
    ):
        sample = make_sample(CASES[name], **more)
        check_format(card_of(sample), [sample], limit=ROUNDED.get(name, 1e-6))


def test_columns_of_a_group_that_are_no_neighbours() -> None:
    """GPTQ in this form, as it was written until 2026."""
    case = CASES["4 bits by group, symmetric"]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    groups = (torch.arange(64) // 16)[order]
    config = {**case["config"], "config_groups": {"group_0": dict(case["config"]["config_groups"]["group_0"])}}
    group = config["config_groups"]["group_0"]
    group["weights"] = {**group["weights"], "actorder": "group"}
    scales = case[".weight_scale"].float()
    codes = (case["dense"] / scales.repeat_interleave(16, 1)).round()
    sample = make_sample({**case, "config": config, "dense": codes * scales[:, groups]}, weight_g_idx=groups.int())
    check_format(card_of(sample), [sample])


def test_rows_that_do_not_fill_words_are_refused() -> None:
    case = CASES["4 bits by group, symmetric"]
    sample = make_sample({**case, ".weight_shape": torch.tensor([32, 60])})
    reader = CompressedTensorsFormat(CompressedTensorsConfig.model_validate(sample.config))
    told = r"layer\.weight_packed holds 32 x 64 codes of 4 bits, and layer\.weight_shape says 32 x 60"
    with pytest.raises(CheckpointError, match=told):
        reader.load(UP, sample.tensors, CPU, torch.float32)


def test_scales_that_are_no_numbers_are_refused() -> None:
    case = CASES["mxfp4"]
    bad = case[".weight_scale"].clone()
    bad[3, 1] = 255
    sample = make_sample({**case, ".weight_scale": bad})
    reader = CompressedTensorsFormat(CompressedTensorsConfig.model_validate(sample.config))
    with pytest.raises(CheckpointError, match=r"layer\.weight_scale holds a scale that is not a number"):
        reader.load(UP, sample.tensors, CPU, torch.float32)


def group(*targets: str, **weights: Any) -> dict[str, Any]:
    return {"targets": list(targets), "weights": {"num_bits": 8, "type": "int", "strategy": "channel", **weights}}


def reader(groups: dict[str, Any], **keys: Any) -> CompressedTensorsFormat:
    keys = {"format": "int-quantized", "config_groups": groups, **keys}
    return CompressedTensorsFormat(CompressedTensorsConfig.model_validate(keys))


def test_names_come_before_classes() -> None:
    eight, four = group("Linear"), {**group("re:.*mlp", num_bits=4), "format": "pack-quantized"}
    for groups in ({"a": eight, "b": four}, {"b": four, "a": eight}):
        found = reader(groups)
        for weight, first in ((UP, ".weight_packed"), (QUERY, ".weight"), (HEAD, ".weight")):
            components = found.components(weight)
            assert components is not None
            assert components.required[0] == first
        assert found.components(EMBEDDING) is None
    assert reader({"a": group("Embedding")}).components(EMBEDDING) is not None


def test_what_is_ignored_or_has_no_group_is_left_to_others() -> None:
    found = reader({"a": group("Linear")}, ignore=["lm_head", "re:.*self_attn"])
    assert found.components(HEAD) is None
    assert found.components(QUERY) is None
    assert found.components(UP) is not None
    activations = {"targets": ["Linear"], "weights": None, "input_activations": {"num_bits": 8}}
    assert reader({"a": activations}).components(UP) is None
    assert reader({"a": group("model.layers.0.self_attn.q_proj")}).components(UP) is None


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"format": "marlin-24"}, "format"),
        ({"format": "mxfp6-pack-quantized"}, "format"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config has the format 'sparse-24-bitmask'"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, "transform_config is not supported"),
        ({"format": "mixed-precision"}, "config_groups.a has no format"),
        ({"config_groups": {}}, "there is none"),
        ({"config_groups": {"W8A8": ["Linear"]}}, "config_groups"),
        ({"config_groups": {"a": group("Linear", num_bits=9)}}, "num_bits"),
        ({"config_groups": {"a": group("Linear", strategy="group")}}, "strategy is group, and group_size is None"),
        ({"config_groups": {"a": group("Linear", strategy="block")}}, "there is no block_structure"),
        (
            {"config_groups": {"a": group("Linear", type="float")}},
            "bits of the type float in groups of None, which int-quantized",
        ),
        ({"config_groups": {"a": group("Linear", actorder="group")}}, "in another order"),
        ({"config_groups": {"a": group("Linear", strategy="tensor", symmetric=False)}}, "zero-points by tensor"),
        (
            {"format": "float-quantized", "config_groups": {"a": group("Linear", type="float", symmetric=False)}},
            "with zero-points, which is not supported",
        ),
        (
            {
                "format": "nvfp4-pack-quantized",
                "config_groups": {"a": group("Linear", type="float", num_bits=4, strategy="group", group_size=32)},
            },
            "in groups of 32, which nvfp4-pack-quantized does not have",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        reader(**{"groups": {"a": group("Linear")}, **keys} if "config_groups" not in keys else {"groups": {}, **keys})

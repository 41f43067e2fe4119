"""The conformance kit on weights that GPTQModel packed (``make_reference.py``), and what configurations say of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dovetail_quant_gptq
import pytest
import torch
from dovetail_quant_gptq.config import GptqConfig
from dovetail_quant_gptq.format import GptqFormat

from dovetail.api import CheckpointError
from dovetail.nn import WeightName
from dovetail.testing import WeightSample, check_format, check_registration, lazy_tensors

(CARD,) = dovetail_quant_gptq.dovetail_register_quantization()
DOWN, UP, QUERY, HEAD = (
    WeightName("model.layers.0.mlp.down_proj", "linear"),
    WeightName("model.layers.0.mlp.up_proj", "linear"),
    WeightName("model.layers.0.self_attn.q_proj", "linear"),
    WeightName("lm_head", "head"),
)


def samples() -> dict[str, WeightSample]:
    found = {}
    for name, case in torch.load(Path(__file__).with_name("reference.pt")).items():
        parts = {part: value for part, value in case.items() if part.startswith(".")}
        lazy = lazy_tensors({f"layer{part}": value for part, value in parts.items()})
        found[name] = WeightSample(dict(zip(parts, lazy, strict=True)), case["dense"].float(), config=case["config"])
    return found


SAMPLES = samples()


def test_registration() -> None:
    check_registration(dovetail_quant_gptq)


@pytest.mark.parametrize("name", SAMPLES)
def test_what_gptqmodel_packed(name: str) -> None:
    check_format(CARD, [SAMPLES[name]])


def without(sample: WeightSample, part: str, **config: Any) -> WeightSample:
    left = {key: value for key, value in sample.tensors.items() if key != part}
    return WeightSample(left, sample.dense, config={**sample.config, **config})


def test_old_files_have_no_group_indices() -> None:
    check_format(CARD, [without(SAMPLES["4 bits, groups of 32, symmetric, gptq"], ".g_idx")])


def test_groups_that_do_not_fill_the_rows() -> None:
    """Of 64 columns, 48 and 16: no oracle writes them, so those of one scale are given twice."""
    whole = SAMPLES["4 bits, groups of -1, with zero-points, gptq"]
    parts = {part: lazy.read() for part, lazy in whole.tensors.items() if part != ".g_idx"}
    twice = {part: value if part == ".qweight" else value.repeat(2, 1) for part, value in parts.items()}
    lazy = lazy_tensors({f"layer{part}": value for part, value in twice.items()})
    check_format(
        CARD, [WeightSample(dict(zip(twice, lazy, strict=True)), whole.dense, {**whole.config, "group_size": 48})]
    )


def test_zero_points_in_the_middle_take_no_memory() -> None:
    for name, sample in SAMPLES.items():
        reader = GptqFormat(GptqConfig.model_validate(dict(sample.config)))
        weight = reader.load(UP, sample.tensors, torch.device("cpu"), torch.float32)
        packed = weight.pack("affine")
        assert packed is not None
        assert (weight.zeros is None) == (packed.mins is None) == ("symmetric" in name)


def test_indices_of_groups_that_are_not_there_are_refused() -> None:
    sample = SAMPLES["4 bits, groups of 32, act-order, symmetric, gptq"]
    reader = GptqFormat(GptqConfig.model_validate({**sample.config, "group_size": 64}))
    with pytest.raises(CheckpointError, match=r"layer\.qzeros is \[2, 4\], wanted \[1, 4\]"):
        reader.load(UP, sample.tensors, torch.device("cpu"), torch.float32)
    (bad,) = lazy_tensors({"layer.g_idx": torch.full((64,), 2, dtype=torch.int32)})
    reader = GptqFormat(GptqConfig.model_validate(dict(sample.config)))
    with pytest.raises(CheckpointError, match=r"layer\.g_idx holds numbers from 2 to 2, wanted 0 to 1"):
        reader.load(UP, {**sample.tensors, ".g_idx": bad}, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    "keys",
    [
        {"bits": 5},
        {"group_size": 0},
        {"pack_dtype": "int16"},
        {"checkpoint_format": "marlin"},
        {"format": "gptq_p"},
        {"is_marlin_format": True},
        {"dynamic": {"mlp": {"bits": 6}}},
    ],
)
def test_what_cannot_be_read_is_refused(keys: dict[str, Any]) -> None:
    told = {"format": "checkpoint_format", "is_marlin_format": "checkpoint_format"}.get(
        next(iter(keys)), next(iter(keys))
    )
    with pytest.raises(ValueError, match=told):
        GptqConfig.model_validate({"bits": 4, "group_size": 128, **keys})


def reader(**keys: Any) -> GptqFormat:
    return GptqFormat(GptqConfig.model_validate({"bits": 4, "group_size": 128, **keys}))


def test_the_first_rule_that_matches_a_layer_decides() -> None:
    rules = {"-:.*down_proj": {}, r"+:.*\.mlp\.": {"bits": 8, "desc_act": True}, r".*\.q_proj": {"group_size": 32}}
    found = reader(dynamic=rules)
    assert found.components(DOWN) is None
    up, query = found.config_of(UP), found.config_of(QUERY)
    assert up is not None
    assert query is not None
    assert (up.bits, up.desc_act, up.group_size) == (8, True, 128)
    assert (query.bits, query.group_size) == (4, 32)
    for weight, part in ((UP, "required"), (QUERY, "optional")):
        components = found.components(weight)
        assert components is not None
        assert ".g_idx" in getattr(components, part)


def test_heads_and_modules_are_quantized_as_the_configuration_says() -> None:
    assert reader().components(HEAD) is None
    assert reader(lm_head=True).components(HEAD) is not None
    for modules in (["mlp.up_proj"], [["mlp.up_proj"]]):
        some = reader(modules_in_block_to_quantize=modules)
        assert some.components(UP) is not None
        assert some.components(QUERY) is None


def test_static_groups_need_no_indices() -> None:
    components = reader(desc_act=True, static_groups=True).components(UP)
    assert components is not None
    assert ".g_idx" in components.optional

"""Adapters as PEFT saves them: how they are scaled, and what is refused, by name and all at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from dovetail.api import RequestError
from dovetail.nn import Context, Ops
from dovetail.nn.lora import AdapterWeights
from dovetail.nn.lora_loading import LoraTargets, Rename, read_adapter
from dovetail.testing import ReferenceAttention, lazy_tensors

K, RANK = 12, 8
PARTS = {"model.layers.0.q_proj": 10, "model.layers.0.k_proj": 6}
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["q_proj"], "modules_to_save": None}
Q = "base_model.model.model.layers.0.q_proj"


def make_targets(dtype: torch.dtype, rename: Rename | None = None) -> LoraTargets:
    device = torch.device("cpu")
    attention = ReferenceAttention(device=device, dtype=dtype, kv_dtype=dtype, block_size=8)
    ctx = Context(
        device=device,
        dtype=dtype,
        ops=Ops(),
        attention=attention,
        max_tokens=64,
        max_loras=1,
        max_lora_rank=RANK,
    )
    embedding = ctx.embedding("model.embed_tokens", 20, K)
    ctx.linear(PARTS, K)
    ctx.head_sections("model.layers.0.kv_b_proj", (3, 2), K, ctx.parallel.heads(4, 4))
    ctx.head("lm_head", K, 20, tied=embedding)
    return LoraTargets.of(ctx, rename)


def make_tensors(rank: int = 4, infix: str = "", **changes: Tensor | None) -> dict[str, Tensor]:
    """A good adapter of q, with tensors added, replaced, or taken away by ``A``, ``B`` and whole names."""
    torch.manual_seed(0)
    tensors: dict[str, Tensor | None] = {
        f"{Q}.lora_A{infix}.weight": torch.randn(rank, K),
        f"{Q}.lora_B{infix}.weight": torch.randn(10, rank),
    }
    for name, value in changes.items():
        tensors[f"{Q}.lora_{name}.weight" if name in "AB" else name] = value
    return {name: value for name, value in tensors.items() if value is not None}


def read(tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, **config: Any) -> AdapterWeights:
    return read_adapter("the adapter 'a'", {**CONFIG, **config}, lazy_tensors(tensors), make_targets(dtype))


def refusal(tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, **config: Any) -> str:
    with pytest.raises(RequestError) as error:
        read(tensors, dtype, **config)
    assert error.value.problem.startswith("the adapter 'a' cannot be used: ")
    assert error.value.param == "lora_path"
    return error.value.problem


@pytest.mark.parametrize(
    ("config", "rank", "scale"),
    [
        ({}, 4, 6 / 4),
        ({"use_rslora": True}, 4, 6 / math.sqrt(4)),
        ({"r": 2}, 2, 6 / 2),
        ({"lora_alpha": 1.5}, 4, 1.5 / 4),
        ({"rank_pattern": {"q_proj": 2}}, 2, 6 / 2),
        ({"rank_pattern": {"k_proj": 2}}, 4, 6 / 4),
        ({"rank_pattern": {"proj": 2}}, 4, 6 / 4),  # a pattern matches whole components of a name
        ({"rank_pattern": {r"layers\.\d+\.q_proj": 2}, "alpha_pattern": {"layers.0.q_proj": 5}}, 2, 5 / 2),
        ({"alpha_pattern": {"q_proj": 5, "layers.0.q_proj": 7}}, 4, 5 / 4),  # the first that matches
        ({"rank_pattern": None, "alpha_pattern": None, "use_rslora": None, "bias": None}, 4, 6 / 4),
        ({"use_dora": False, "modules_to_save": [], "init_lora_weights": "gaussian"}, 4, 6 / 4),
    ],
)
@pytest.mark.parametrize("infix", ["", ".default"])
def test_the_scaling_is_folded_into_b(config: dict[str, Any], rank: int, scale: float, infix: str) -> None:
    tensors = make_tensors(rank, infix)
    (part,) = weights = read(tensors, **config)
    a, b = weights[part]
    assert part == "model.layers.0.q_proj"
    assert torch.equal(a, tensors[f"{Q}.lora_A{infix}.weight"])
    torch.testing.assert_close(b, scale * tensors[f"{Q}.lora_B{infix}.weight"], rtol=1e-6, atol=0)


def test_matrices_are_converted_to_the_activations_dtype_after_scaling() -> None:
    tensors = make_tensors()
    weights = read({name: value.double() for name, value in tensors.items()}, torch.bfloat16)
    a, b = weights["model.layers.0.q_proj"]
    assert torch.equal(a, tensors[f"{Q}.lora_A.weight"].bfloat16())
    assert torch.equal(b, (tensors[f"{Q}.lora_B.weight"] * 1.5).bfloat16())


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3', wanted 'LORA'"),
        ({"peft_type": None}, "peft_type None, wanted 'LORA'"),
        ({"use_dora": True}, "use_dora asks for DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save asks for whole modules"),
        ({"bias": "lora_only"}, "bias is 'lora_only', wanted 'none'"),
        ({"lora_bias": True}, "lora_bias asks for biases of its own"),
        ({"layer_replication": [[0, 1]]}, "layer_replication asks for"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16', which changed"),
        ({"r": 0}, "r is 0: "),
        ({"r": "many"}, "r is 'many': "),
        ({"rank_pattern": {"(": 2}}, "the pattern '(' is no regular expression"),
        ({"r": 9}, f"ranks above the --max-lora-rank of {RANK}: model.layers.0.q_proj has 9"),
        ({"r": 8}, f"{Q}.lora_A.weight is [4, 12], wanted [8, 12]"),
    ],
)
def test_configurations_that_are_refused(config: dict[str, Any], reason: str) -> None:
    assert reason in refusal(make_tensors(), **config)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"A": torch.zeros(4, 13)}, f"{Q}.lora_A.weight is [4, 13], wanted [4, 12]"),
        ({"B": torch.zeros(11, 4)}, f"{Q}.lora_B.weight is [11, 4], wanted [10, 4]"),
        ({"B": None}, f"tensors without their other half: {Q}.lora_A.weight"),
        ({"A": None}, f"tensors without their other half: {Q}.lora_B.weight"),
        ({"A": None, "B": None}, "no tensor is named base_model.model.….lora_A.weight"),
        ({"A": torch.zeros(4, 12, dtype=torch.int8)}, f"{Q}.lora_A.weight is of type int8"),
        ({f"{Q}.lora_A.default.weight": torch.zeros(4, 12)}, "lora_A.default.weight (a second one for its module)"),
        (
            {"base_model.model.lm_head.weight": torch.zeros(20, K)},
            "no low-rank matrices: base_model.model.lm_head.weight",
        ),
        (
            {f"{Q}.lora_magnitude_vector": torch.zeros(10)},
            f"no low-rank matrices: {Q}.lora_magnitude_vector",
        ),
        (
            {
                "base_model.model.lm_head.lora_A.weight": torch.zeros(4, K),
                "base_model.model.lm_head.lora_B.weight": torch.zeros(20, 4),
            },
            "modules that take no adapter, being no linear layers: lm_head",
        ),
        (
            {
                "base_model.model.model.layers.0.kv_b_proj.lora_A.weight": torch.zeros(4, K),
                "base_model.model.model.layers.0.kv_b_proj.lora_B.weight": torch.zeros(20, 4),
            },
            "modules that take no adapter, being no linear layers: model.layers.0.kv_b_proj",
        ),
        (
            {
                "base_model.model.model.layers.7.q_proj.lora_A.weight": torch.zeros(4, K),
                "base_model.model.model.layers.7.q_proj.lora_B.weight": torch.zeros(20, 4),
            },
            "modules that the model does not have: model.layers.7.q_proj",
        ),
        ({"B": torch.full((10, 4), float("nan"))}, "not a number in torch.float32: model.layers.0.q_proj"),
    ],
)
def test_tensors_that_are_refused(changes: dict[str, Tensor | None], reason: str) -> None:
    assert reason in refusal(make_tensors(**changes))


def test_values_that_the_dtype_cannot_hold_are_refused() -> None:
    tensors = make_tensors(B=torch.full((10, 4), 6e4))
    read(tensors)
    assert "infinite or not a number in torch.float16" in refusal(tensors, torch.float16)


def test_all_reasons_are_given_at_once() -> None:
    text = refusal(make_tensors(A=torch.zeros(4, 13), extra=torch.zeros(1)), use_dora=True, bias="all")
    for reason in ("use_dora", "bias is 'all'", "lora_A.weight is [4, 13]", "no low-rank matrices: extra"):
        assert reason in text


def test_a_long_list_of_names_is_cut_short() -> None:
    changes = {f"base_model.model.other.{i}.lora_{s}.weight": torch.zeros(4, 4) for i in range(30) for s in "AB"}
    text = refusal(make_tensors(**changes))
    assert "other.5 and 24 more" in text
    assert len(text) < 500


# A model that has other names for its modules than its checkpoints.


def translate(name: str) -> str | None:
    """The language model of a checkpoint with a vision tower; ``att`` is an old name."""
    assert name.endswith(".weight"), "names are those of tensors"
    if name.startswith("visual."):
        return None
    return name.removeprefix("language_model.").replace(".att.", ".")


def renamed(tensors: Mapping[str, Tensor], **config: Any) -> AdapterWeights:
    targets = make_targets(torch.float32, translate)
    return read_adapter("the adapter 'a'", {**CONFIG, **config}, lazy_tensors(tensors), targets)


def pair(module: str) -> dict[str, Tensor]:
    torch.manual_seed(len(module))
    name = f"base_model.model.{module}"
    return {f"{name}.lora_A.weight": torch.randn(4, K), f"{name}.lora_B.weight": torch.randn(10, 4)}


def test_modules_are_renamed_as_the_checkpoint_s_tensors_are() -> None:
    tensors = pair("language_model.model.layers.0.q_proj")
    (name,) = weights = renamed({**tensors, **pair("visual.blocks.0.q_proj")})
    assert name == "model.layers.0.q_proj"
    assert torch.equal(weights[name][0], tensors["base_model.model.language_model.model.layers.0.q_proj.lora_A.weight"])


def test_patterns_are_for_the_adapter_s_own_names() -> None:
    tensors = pair("language_model.model.layers.0.q_proj")
    b = tensors["base_model.model.language_model.model.layers.0.q_proj.lora_B.weight"]
    weights = renamed(tensors, alpha_pattern={"language_model.model.layers.0.q_proj": 10})
    torch.testing.assert_close(weights["model.layers.0.q_proj"][1], b * 10 / 4)


def test_an_adapter_of_nothing_that_the_model_has_is_refused() -> None:
    with pytest.raises(RequestError, match="it only changes parts that the model leaves out"):
        renamed(pair("visual.blocks.0.q_proj"))


def test_two_modules_of_one_name_are_refused() -> None:
    both = {**pair("model.layers.0.q_proj"), **pair("language_model.model.layers.0.att.q_proj")}
    with pytest.raises(RequestError, match=r"modules of which the model has fewer: model\.layers\.0\.q_proj, language"):
        renamed(both)

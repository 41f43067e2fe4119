"""What checkpoints hold besides the model, and what may not be left out."""

from __future__ import annotations

import logging

import pytest
import torch

from dovetail.api import CheckpointError, LazyTensor
from dovetail.nn.context import Context
from dovetail.nn.dense import DenseFormat, DenseKernel
from dovetail.nn.leftovers import BUFFER, EMPTY, FURTHER, OF_CACHE, Leftovers
from dovetail.nn.loading import WeightReader
from dovetail.nn.ops import Ops
from dovetail.nn.placing import WeightChoice
from dovetail.testing import ReferenceAttention


def lazy(name: str, *shape: int, type_: str = "float32") -> LazyTensor:
    return LazyTensor(name, shape, type_, lambda: torch.ones(shape, dtype=getattr(torch, type_)))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("rotary_emb.inv_freq", (4,)),
        ("model.rotary_emb.inv_freq", (4,)),
        ("model.layers.3.self_attn.rotary_emb.inv_freq", (4,)),
        ("transformer.rotary_pos_emb.inv_freq", (4,)),
        ("model.layers.3.self_attn.rotary_emb.cos_cached", (1, 1, 8, 4)),
        ("model.layers.0.self_attn.rotary_emb.sin", (8, 4)),
        ("freqs_cis", (8, 4)),
        ("rope.freqs", (4,)),
        ("transformer.h.0.attn.bias", (1, 1, 8, 8)),
        ("transformer.h.0.attn.masked_bias", ()),
        ("gpt_neox.layers.0.attention.bias", (1, 1, 8, 8)),
        ("embeddings.position_ids", (1, 8)),
        ("module._orig_mod.model.rotary_emb.inv_freq", (4,)),
    ],
)
def test_buffers(name: str, shape: tuple[int, ...]) -> None:
    leftovers = Leftovers()
    assert leftovers.take(name, lazy(name, *shape))
    assert leftovers.names == {BUFFER: [name]}


@pytest.mark.parametrize(
    "ending",
    [
        "k_scale",
        "v_scale",
        "kv_scale",
        "q_scale",
        "prob_scale",
        "attn.k_scale",
        "k_zero_point",
        "k_proj.k_scale",
        "v_proj.v_scale",
        "k_proj.output_scale",
    ],
)
def test_scales_of_a_quantized_cache(ending: str) -> None:
    leftovers, name = Leftovers(), f"model.layers.3.self_attn.{ending}"
    assert leftovers.take(name, lazy(name, 1))
    assert leftovers.names == {OF_CACHE: [name]}
    for other in ("model.layers.3.mlp.k_scale", f"{name}s", "model.layers.3.self_attn.k_proj.weight_scale"):
        assert not leftovers.take(other, lazy(other, 1))


def test_layers_past_the_last_one() -> None:
    leftovers = Leftovers()
    names = ["model.layers.2.mlp.weight", "model.layers.10.mlp.weight", "_orig_mod.model.layers.2.norm.weight"]
    assert all(leftovers.take(name, lazy(name, 4), layers={"model.layers": 2}) for name in names)
    assert leftovers.names == {FURTHER: names}
    for name in (
        "model.layers.1.mlp.weight",
        "layers.2.mlp.weight",
        "model.layers.two.weight",
        "model.layers.2b.weight",
    ):
        assert not leftovers.take(name, lazy(name, 4), layers={"model.layers": 2})
    assert not leftovers.take(names[0], lazy(names[0], 4))


def test_tensors_without_elements() -> None:
    leftovers = Leftovers()
    assert leftovers.take("mlp.shared_experts.down_proj.weight", lazy("given", 8, 0))
    assert not leftovers.take("mlp.shared_experts.down_proj.weight", lazy("given", 8, 1))
    assert leftovers.names == {EMPTY: ["given"]}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("v_head.summary.weight", "heads of trainers"),
        ("v_head.summary.bias", "heads of trainers"),
        ("score.weight", "heads of trainers"),
        ("model.score.weight", "heads of trainers"),
        ("value_head.0.weight", "heads of trainers"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", "adapter weights"),
        ("model.layers.0.self_attn.q_proj.lora_B.default.weight", "adapter weights"),
        ("model.embed_tokens.lora_embedding_A", "adapter weights"),
        ("optimizer.state.0", "optimizer states"),
        ("model.norm.weight.exp_avg_sq", "optimizer states"),
    ],
)
def test_what_trainers_leave_behind(name: str, kind: str) -> None:
    leftovers = Leftovers()
    assert leftovers.take(name, lazy(name, 2, 2))
    assert leftovers.names == {kind: [name]}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("transformer.h.0.attn.bias", (8,)),  # one dimension: a bias, not a mask
        ("model.layers.0.mlp.gate_proj.bias", (8,)),
        ("model.layers.9.self_attn.q_proj.weight", (8, 8)),
        ("model.layers.0.self_attn.score.weight", (8, 8)),
        ("mystery.weight", (8, 8)),
        ("mystery_inv_freq_scale", (8,)),
    ],
)
def test_what_may_be_a_part_of_the_model_is_no_leftover(name: str, shape: tuple[int, ...]) -> None:
    assert not Leftovers().take(name, lazy(name, *shape))


def reader() -> WeightReader:
    device, dtype = torch.device("cpu"), torch.float32
    attention = ReferenceAttention(device=device, dtype=dtype, kv_dtype=dtype, block_size=8)
    ctx = Context(device=device, dtype=dtype, ops=Ops(), attention=attention, max_tokens=8)
    ctx.linear("layer", 3, 2)
    ctx.norm("norm", 3, 1e-6)
    ctx.ignore(".own_buffer")
    return WeightReader(ctx, [WeightChoice("linear", "float32", DenseFormat, [("dense", DenseKernel)])], {})


MODEL = [lazy("layer.weight", 2, 3), lazy("norm.weight", 3)]


def test_leftovers_are_named_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    saved = [lazy(f"layers.{i}.rotary_emb.inv_freq", 4) for i in range(5)]
    with caplog.at_level(logging.INFO, "dovetail.nn"):
        reader().load([*MODEL, *saved, lazy("x.own_buffer", 1), lazy("position_ids", 1, 8, type_="int64")])
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == (
        "left out 7 tensors that are no part of the model; saved buffers: 7 (layers.0.rotary_emb.inv_freq, "
        "layers.1.rotary_emb.inv_freq, layers.2.rotary_emb.inv_freq, …)"
    )


def test_what_somebody_may_have_wanted_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    reader().load([*MODEL, lazy("v_head.summary.weight", 1, 3), lazy("layer.lora_A.weight", 1, 3)])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert (
        "heads of trainers: 1 (v_head.summary.weight); adapter weights: 1 (layer.lora_A.weight)" in record.getMessage()
    )


def test_a_clean_checkpoint_is_loaded_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        reader().load(MODEL)
    assert not caplog.records


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module."])
def test_names_that_a_trainer_wrapped(prefix: str) -> None:
    made = reader()
    made.load([lazy(prefix + tensor.name, *tensor.shape) for tensor in MODEL])
    assert made.used == {"dense": 1}


def test_unknown_tensors_are_refused_beside_leftovers() -> None:
    with pytest.raises(CheckpointError, match=r"\(unexpected: layer\.bias, module\.norm\.weight\)"):
        reader().load([*MODEL, lazy("layer.bias", 2), lazy("score.weight", 1, 3), lazy("module.norm.weight", 3)])
    with pytest.raises(CheckpointError, match=r"missing: norm\.weight"):
        reader().load([MODEL[0], lazy("score.weight", 1, 3)])

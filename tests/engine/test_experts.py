"""Mixtures of experts in the whole engine: plan, memory, tokens, adapters, and experts in the files of two loaders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from dovetail_models_mixtral import dovetail_register_models
from safetensors.torch import load_file, save_file
from torch import Tensor

from dovetail import LLM, LoRARequest, SamplingParams
from dovetail.api import ConfigError, RequestError
from dovetail.engine.args import EngineArgs
from dovetail.engine.setup import make_plan
from dovetail.engine.step.runner import ModelRunner
from dovetail.kernel.plan import render
from dovetail.testing import empty_model, random_checkpoint, store_together

from ..tiny import write_tokenizer
from ..tiny_lora import ATTENTION, merged, write_adapter, write_merged

(CARD,) = dovetail_register_models()
CONFIG: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
GREEDY = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
PROMPTS = [{"prompt_token_ids": [(7 * i + n) % 256 for i in range(n)]} for n in (1, 12, 40)]


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] = CONFIG) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    write_tokenizer(folder)
    return folder


def make_tensors() -> dict[str, Tensor]:
    # Large enough that likeliest tokens differ clearly, and greedy decoding does not hang on rounding.
    return {
        name: value if value.ndim == 1 else value * (0.3 / value.std())
        for name, value in random_checkpoint(CARD, CONFIG).items()
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("mixtral"), make_tensors())


def generate(model: Path, **options: Any) -> list[list[int]]:
    llm = LLM(str(model), use_tqdm=False, dtype="float32", **options)
    return [output.outputs[0].token_ids for output in llm.generate(PROMPTS, GREEDY, use_tqdm=False)]


@pytest.mark.parametrize("stacked", [False, True])
def test_tokens_are_those_of_transformers(tmp_path: Path, stacked: bool) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**{**CONFIG, "eos_token_id": None}, initializer_range=0.3)
    theirs = transformers.MixtralForCausalLM(config).eval()
    tensors = dict(theirs.state_dict())
    if not stacked:
        for layer in range(CONFIG["num_hidden_layers"]):
            prefix = f"model.layers.{layer}.mlp"
            experts = f"{prefix.replace('mlp', 'block_sparse_moe')}.experts"
            for e, both in enumerate(tensors.pop(f"{prefix}.experts.gate_up_proj")):
                tensors[f"{experts}.{e}.w1.weight"], tensors[f"{experts}.{e}.w3.weight"] = both.chunk(2)
            for e, down in enumerate(tensors.pop(f"{prefix}.experts.down_proj")):
                tensors[f"{experts}.{e}.w2.weight"] = down
            tensors[f"{prefix.replace('mlp', 'block_sparse_moe')}.gate.weight"] = tensors.pop(f"{prefix}.gate.weight")
    expected = [
        theirs.generate(torch.tensor([prompt["prompt_token_ids"]]), max_new_tokens=10, do_sample=False, pad_token_id=0)[
            0, len(prompt["prompt_token_ids"]) :
        ].tolist()
        for prompt in PROMPTS
    ]
    assert generate(write_checkpoint(tmp_path, tensors)) == expected


def test_the_plan_has_kernels_of_experts(checkpoint: Path) -> None:
    plan = make_plan(EngineArgs(model=str(checkpoint)))
    kernels = {w.kind: [kernel.name for kernel in w.kernels] for w in plan.weights if w.type == "float32"}
    assert kernels["experts"] == ["grouped-experts", "every-expert"]
    assert "experts" not in {kernel for names in kernels.values() for kernel in names}
    assert "    experts: kernel grouped-experts (dovetail " in render(plan)


def test_memory_counts_experts(checkpoint: Path) -> None:
    def make(**overrides: Any) -> ModelRunner:
        args = EngineArgs(model=str(checkpoint), dtype="float32", hf_overrides=overrides)
        return ModelRunner(make_plan(args), 16)

    runner = make()
    assert runner.reader.used["grouped-experts"] == 2
    assert runner.reader.used["dense"] == 2 * (2 * 5 + 3) + 2  # two for each expert; qkv, out and gate; embedding, head
    matrices = sum(t.numel() for t in load_file(checkpoint / "model.safetensors").values() if t.ndim > 1)
    assert runner.weight_bytes == 4 * matrices
    more = make(num_experts_per_tok=4)
    per_token = (more.activation_bytes(512, 4) - runner.activation_bytes(512, 4)) / 512
    assert per_token == 2 * 4 * 3 * (CONFIG["intermediate_size"] + CONFIG["hidden_size"])


def test_tokens_do_not_depend_on_the_steps(checkpoint: Path) -> None:
    whole = generate(checkpoint)
    assert generate(checkpoint, max_num_batched_tokens=16, block_size=4) == whole
    assert generate(checkpoint, max_num_seqs=1) == whole


def test_adapters_of_other_layers_work_and_those_of_experts_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    base = load_file(checkpoint / "model.safetensors")
    targets = (*ATTENTION, "block_sparse_moe.gate")
    good = write_adapter(tmp_path / "good", base, targets=targets, rank=4, seed=1)
    bad = write_adapter(tmp_path / "bad", base, targets=(*targets, "experts.3.w2"), rank=4, seed=2)
    llm = LLM(str(checkpoint), use_tqdm=False, dtype="float32", enable_lora=True, max_lora_rank=4)
    found = llm.generate(PROMPTS, GREEDY, use_tqdm=False, lora_request=LoRARequest("good", 1, str(good)))
    expected = generate(write_merged(tmp_path / "merged", checkpoint, merged(base, good)))
    assert [output.outputs[0].token_ids for output in found] == expected
    assert expected != generate(checkpoint)
    told = r"experts, which take no adapter: model\.layers\.0\.block_sparse_moe\.experts\.3\.w2"
    with pytest.raises(RequestError, match=told):
        llm.generate(PROMPTS, GREEDY, use_tqdm=False, lora_request=LoRARequest("bad", 2, str(bad)))


# GGUF.

GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "lm_head": "output",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.experts.w1": "ffn_gate_exps",
    "block_sparse_moe.experts.w3": "ffn_up_exps",
    "block_sparse_moe.experts.w2": "ffn_down_exps",
}
Q8 = gguf.GGMLQuantizationType.Q8_0


def stack(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    _, ctx = empty_model(CARD, CONFIG)
    for name in ctx.together:
        if name.endswith((".w1", ".w2", ".w3")):
            tensors = store_together(ctx, name, tensors)
    return tensors


def write_gguf(path: Path, tensors: dict[str, Tensor], *, quantized: bool, experts: int = 5) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(256)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
    for name, value in tensors.items():
        stem = name.removesuffix(".weight")
        layer = stem.split(".")[2] if stem.startswith("model.layers.") else None
        inside = stem.split(".", 3)[3] if layer is not None else stem
        if inside.startswith("block_sparse_moe.experts.") and inside not in GGUF_NAMES:
            number, part = inside.split(".")[2:]
            new = f"{GGUF_NAMES[f'block_sparse_moe.experts.{part}'].removesuffix('_exps')}.{number}"
        else:
            new = GGUF_NAMES[inside]
        if inside in ("self_attn.q_proj", "self_attn.k_proj"):
            value = value.view(-1, 2, 8, 64).swapaxes(1, 2).reshape(-1, 64)
        data = value.contiguous().numpy()
        full = f"{new}.weight" if layer is None else f"blk.{layer}.{new}.weight"
        if quantized and "_exps" in full:
            writer.add_tensor(full, gguf.quantize(data, Q8), raw_dtype=Q8)
        else:
            writer.add_tensor(full, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("form", ["stacked", "separate", "quantized"])
def test_experts_of_gguf_files(checkpoint: Path, tmp_path: Path, form: str) -> None:
    apart = load_file(checkpoint / "model.safetensors")
    tensors = apart if form == "separate" else stack(apart)
    write_gguf(tmp_path / "m.gguf", tensors, quantized=form == "quantized")
    if form == "quantized":
        rounded = {
            name: torch.from_numpy(gguf.dequantize(gguf.quantize(value.numpy(), Q8), Q8).astype(np.float32))
            if ".experts." in name
            else value
            for name, value in apart.items()
        }
        expected = generate(write_checkpoint(tmp_path / "rounded", rounded))
    else:
        expected = generate(checkpoint)
    found = generate(tmp_path / "m.gguf", tokenizer=str(checkpoint))
    assert found == expected


def test_files_with_and_without_experts_go_to_different_models(checkpoint: Path, tmp_path: Path) -> None:
    tensors = stack(load_file(checkpoint / "model.safetensors"))
    mixture = write_gguf(tmp_path / "mixture.gguf", tensors, quantized=False)
    dense = write_gguf(
        tmp_path / "dense.gguf", {"model.norm.weight": torch.ones(64)} | tensors, quantized=False, experts=0
    )
    found = {
        path: make_plan(EngineArgs(model=str(path), tokenizer=str(checkpoint))).model_part.part.name
        for path in (mixture, dense)
    }
    assert found == {mixture: "mixtral", dense: "llama"}
    with pytest.raises(ConfigError, match=r"llama\.expert_count = 5, wanted a dense model"):
        make_plan(EngineArgs(model=str(mixture), tokenizer=str(checkpoint), plugins="-dovetail-models-mixtral"))

"""Quantized checkpoints in the whole engine give the tokens of the same matrices in full precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dovetail_models_gpt_oss import dovetail_register_models as gpt_oss_cards
from dovetail_models_llama import dovetail_register_models as llama_cards
from dovetail_models_mixtral import dovetail_register_models as mixtral_cards
from safetensors.torch import save_file
from torch import Tensor

from dovetail import LLM, SamplingParams
from dovetail.testing import empty_model, random_checkpoint, store_together

from ..quantized import METHODS, Method, mxfp4
from ..tiny import CONFIG, write_tokenizer

SIZES = {**CONFIG, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "num_hidden_layers": 2}
EXPERTS = {**SIZES, "architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2}
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = [{"prompt_token_ids": [(7 * i + n) % 256 for i in range(n)]} for n in (1, 12, 40)]


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    write_tokenizer(folder)
    return str(folder)


def write_both(folder: Path, config: dict[str, Any], method: Method) -> tuple[str, str]:
    """A quantized checkpoint, and one of the matrices that it stands for."""
    card, *_ = (mixtral_cards if "num_local_experts" in config else llama_cards)()
    stored, dense = {}, {}
    torch.manual_seed(0)
    for name, value in random_checkpoint(card, config).items():
        if value.ndim == 1 or "embed_tokens" in name or "lm_head" in name or name.endswith("gate.weight"):
            stored[name] = dense[name] = value
            continue
        stem = name.removesuffix(".weight")
        parts, dense[name] = method.quantize(value * (0.3 / value.std()))
        stored |= {stem + part: tensor for part, tensor in parts.items()}
    quantized = {**config, "quantization_config": method.config}
    return write(folder / "quantized", quantized, stored), write(folder / "dense", config, dense)


def tokens(model: str) -> list[list[int]]:
    llm = LLM(model, dtype="float32", max_model_len=64)
    return [list(found.outputs[0].token_ids) for found in llm.generate(PROMPTS, GREEDY, use_tqdm=False)]


@pytest.mark.parametrize("name", METHODS)
def test_tokens(tmp_path: Path, name: str) -> None:
    quantized, dense = write_both(tmp_path, SIZES, METHODS[name])
    assert tokens(quantized) == tokens(dense)


@pytest.mark.parametrize("name", ["gptq", "awq", "compressed-tensors", "fp8", "fp8, blocks"])
def test_tokens_of_experts(tmp_path: Path, name: str) -> None:
    quantized, dense = write_both(tmp_path, EXPERTS, METHODS[name])
    assert tokens(quantized) == tokens(dense)


def test_tokens_of_stacked_experts_in_4_bit_floats(tmp_path: Path) -> None:
    """In full precision the stacks of gpt-oss are transposed, in MXFP4 they are not."""
    config = {**EXPERTS, "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "head_dim": 16}
    card, *_ = gpt_oss_cards()
    torch.manual_seed(0)
    stored, dense = {}, {}
    _, ctx = empty_model(card, config)
    whole = random_checkpoint(card, config)
    for layer in range(config["num_hidden_layers"]):
        for stack in ("gate_up_proj", "down_proj"):
            whole = store_together(ctx, f"model.layers.{layer}.mlp.experts.{stack}", whole)
    for name, value in whole.items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            stored[name] = dense[name] = value
            continue
        parts, matrices = mxfp4(value.mT)
        dense[name] = matrices.mT.contiguous()
        stored |= {name + part: tensor for part, tensor in parts.items()}
    quantized = write(tmp_path / "quantized", {**config, "quantization_config": {"quant_method": "mxfp4"}}, stored)
    assert tokens(quantized) == tokens(write(tmp_path / "dense", config, dense))

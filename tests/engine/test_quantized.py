"""Quantized checkpoints in the whole engine give the tokens of the same matrices in full precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
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
from dovetail.api import CheckpointError, LayerKind
from dovetail.kernel.discovery import import_dotted
from dovetail.nn import Parallel
from dovetail.nn.dense import DenseFormat, DenseKernel, DequantizeKernel
from dovetail.nn.placing import WeightChoice
from dovetail.testing import build_model, empty_model, random_checkpoint, run_ranks, run_tokens, store_together

from ..quantized import METHODS, Method, mxfp4
from ..tiny import CONFIG, write_tokenizer

SIZES = {**CONFIG, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "num_hidden_layers": 2}
WIDE = {**SIZES, "num_key_value_heads": 4, "intermediate_size": 128}
"""Its rows and columns fill the tiles and words of every method, also where they are cut in two."""
EXPERTS = {**SIZES, "architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2}
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = [{"prompt_token_ids": [(7 * i + n) % 256 for i in range(n)]} for n in (1, 12, 40)]


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    write_tokenizer(folder)
    return str(folder)


def quantize(config: dict[str, Any], method: Method) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of a quantized checkpoint, and those of the matrices that it stands for."""
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
    return stored, dense


def write_both(folder: Path, config: dict[str, Any], method: Method) -> tuple[str, str]:
    """A quantized checkpoint, and one in full precision, as folders."""
    stored, dense = quantize(config, method)
    quantized = {**config, "quantization_config": method.config}
    return write(folder / "quantized", quantized, stored), write(folder / "dense", config, dense)


def tokens(model: str) -> list[list[int]]:
    llm = LLM(model, dtype="float32", max_model_len=64)
    return [list(found.outputs[0].token_ids) for found in llm.generate(PROMPTS, GREEDY, use_tqdm=False)]


@pytest.mark.parametrize("name", METHODS)
def test_tokens(tmp_path: Path, name: str) -> None:
    quantized, dense = write_both(tmp_path, WIDE, METHODS[name])
    assert tokens(quantized) == tokens(dense)


def choices(method: Method) -> list[WeightChoice]:
    """The method's formats with the reference kernel, and full precision for the rest."""
    name = method.config["quant_method"]
    cards = import_module(f"dovetail_quant_{name.replace('-', '_')}").dovetail_register_quantization()
    own = []
    for card in cards:
        config = import_dotted(card.config).model_validate(method.config)
        for type_ in card.types if name in card.methods else ():
            target = import_dotted(card.target)
            own.append(WeightChoice("linear", type_, target, [("dequantize", DequantizeKernel)], config, card.name))
    kinds: tuple[LayerKind, ...] = ("linear", "head", "embedding")
    return own + [WeightChoice(kind, "float32", DenseFormat, [("dense", DenseKernel)]) for kind in kinds]


def logits(config: dict[str, Any], method: Method) -> Callable[..., Tensor]:
    (card, *_), (stored, _) = llama_cards(), quantize(config, method)

    def run(parallel: Parallel | None = None) -> Tensor:
        model, ctx = build_model(card, config, stored, max_tokens=64, parallel=parallel, choices=choices(method))
        return run_tokens(model, ctx, [7 * i % 256 for i in range(20)])

    return run


@pytest.mark.parametrize("name", METHODS)
def test_two_devices_give_the_logits_of_one(name: str) -> None:
    run = logits(WIDE, METHODS[name])
    whole, (first, second) = run(), run_ranks(2, run)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, whole, rtol=1e-4, atol=1e-4)


def test_a_cut_within_what_is_stored_together_is_refused() -> None:
    """Half the heads for keys have 16 rows, and zero-points of 3 bits are packed for 32."""
    run = logits(SIZES, METHODS["gptq, 3 bits, zero-points"])
    assert run().isfinite().all()
    with pytest.raises(CheckpointError, match="cannot be cut at rows 0 and 16 of 32: 32 of them are stored together"):
        run_ranks(2, run)


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

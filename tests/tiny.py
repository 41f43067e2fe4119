"""A tiny Llama with random weights, in a folder as checkpoints come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
from dovetail_models_llama import dovetail_register_models
from safetensors.torch import save_file

from dovetail.testing import random_checkpoint

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "eos_token_id": 255,
}


def write_checkpoint(folder: Path, **changes: Any) -> Path:
    """Weights, configuration, and a tokenizer with one token a byte."""
    config = {**CONFIG, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    card, *_ = dovetail_register_models()
    # Large enough that likeliest tokens differ clearly, and greedy decoding does not hang on rounding.
    tensors = {
        name: tensor if tensor.ndim == 1 else tensor * (0.3 / tensor.std())
        for name, tensor in random_checkpoint(card, config).items()
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))

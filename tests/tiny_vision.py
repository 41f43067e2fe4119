"""Tiny models that see, with random weights, in folders as checkpoints come."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import dovetail_models_qwen_vl
import numpy as np
import tokenizers
import torch
from dovetail_models_llava import dovetail_register_models
from PIL import Image
from safetensors.torch import save_file

from dovetail.testing import random_checkpoint
from tests.tiny import write_tokenizer

SIDE = 24
IMAGE = 256
IMAGE_TOKENS = 16
CONFIG: dict[str, Any] = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "image_token_index": IMAGE,
    "text_config": {
        "model_type": "llama",
        "vocab_size": 264,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    },
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 6,
    },
}
TEMPLATE = (
    "{% for message in messages %}{{ message.role + ': ' }}"
    "{% for part in message.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def write_vision_checkpoint(folder: Path) -> Path:
    """Weights, configuration, and a tokenizer with one token a byte and one for an image."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(sizes))
    torch.manual_seed(0)
    (card,) = dovetail_register_models()
    save_file(
        {name: tensor.contiguous() for name, tensor in random_checkpoint(card, CONFIG).items()},
        folder / "model.safetensors",
    )
    write_tokenizer(folder)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<image>"])
    assert tokenizer.token_to_id("<image>") == IMAGE
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def data_url(image: Image.Image, kind: str = "PNG") -> str:
    return f"data:image/{kind.lower()};base64,{base64.b64encode(encoded(image, kind)).decode()}"


def write_axes_checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    """A tiny Qwen2.5-VL, whose images have rotary positions on three axes; without a tokenizer for its placeholders."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"patch_size": 4, "min_pixels": 256, "max_pixels": 1600})
    )
    (card,) = dovetail_models_qwen_vl.dovetail_register_models()
    tensors = random_checkpoint(card, config)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    write_tokenizer(folder)
    return folder

"""Results against transformers' Llama for the models with rotary embeddings, and against plain torch for those with ALiBi:
the original's own code is published with its checkpoints only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dovetail_models_baichuan import dovetail_register_models
from torch import Tensor, nn

from dovetail.testing import check_parity

(CARD,) = dovetail_register_models()

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
ROPE, ALIBI = {"max_position_embeddings": 96}, {"model_max_length": 96}


def pack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Llama's tensors with queries, keys and values one after the other in ``W_pack``."""
    out: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if match := re.fullmatch(r"(.*\.self_attn)\.q_proj\.weight", name):
            out[f"{match[1]}.W_pack.weight"] = torch.cat([tensors[f"{match[1]}.{part}_proj.weight"] for part in "qkv"])
        elif not re.search(r"\.[kv]_proj\.", name):
            out[name] = value
    return out


class Llama(nn.Module):
    """transformers' Llama, whose checkpoint has Baichuan's names."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        transformers: Any = pytest.importorskip("transformers")
        own = {key: value for key, value in config.items() if key not in ("architectures", "normalized_head")}
        self.normalized = config.get("normalized_head", False)
        self.llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**own, attn_implementation="eager"))

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.llama.model(ids).last_hidden_state
        weight = self.llama.lm_head.weight
        return hidden @ (F.normalize(weight) if self.normalized else weight).T

    def state_dict(self, *args: Any, keep_vars: bool = False, **kwargs: Any) -> dict[str, Any]:
        tensors: dict[str, Any] = self.llama.state_dict(keep_vars=keep_vars)
        return tensors if keep_vars else pack(tensors)


class Plain(nn.Module):
    """The models of 13B, with every score written out."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.heads, self.layers = config["num_attention_heads"], config["num_hidden_layers"]
        self.normalized = config.get("normalized_head", False)
        channels, inner, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens": (rows, channels),
            "model.norm": (channels,),
            "lm_head": (rows, channels),
        }
        for layer in range(self.layers):
            name = f"model.layers.{layer}"
            shapes |= {
                f"{name}.self_attn.W_pack": (3 * channels, channels),
                f"{name}.self_attn.o_proj": (channels, channels),
                f"{name}.mlp.gate_proj": (inner, channels),
                f"{name}.mlp.up_proj": (inner, channels),
                f"{name}.mlp.down_proj": (channels, inner),
                f"{name}.input_layernorm": (channels,),
                f"{name}.post_attention_layernorm": (channels,),
            }
        self.tensors = {f"{name}.weight": torch.ones(shape) for name, shape in shapes.items()}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.tensors

    def weight(self, name: str) -> Tensor:
        return self.tensors[f"{name}.weight"]

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.weight(name)

    def attend(self, x: Tensor, name: str) -> Tensor:
        q, k, v = (x @ self.weight(f"{name}.W_pack").T).unflatten(-1, (3, self.heads, -1)).permute(1, 2, 0, 3)
        places = torch.arange(len(x))
        away = places[:, None] - places  # from each query to each key
        # The sequence of the paper for four heads, and for six those of four and of every second of eight.
        powers = {4: [2, 4, 6, 8], 6: [2, 4, 6, 8, 1, 3]}[self.heads]
        slopes = torch.tensor([2.0**-power for power in powers])
        scores = q @ k.mT / q.shape[-1] ** 0.5 - slopes[:, None, None] * away
        weights = scores.masked_fill(away < 0, float("-inf")).softmax(-1)
        return (weights @ v).transpose(0, 1).flatten(1) @ self.weight(f"{name}.o_proj").T

    def forward(self, ids: Tensor) -> Tensor:
        x = self.weight("model.embed_tokens")[ids[0]]
        for layer in range(self.layers):
            name = f"model.layers.{layer}"
            x = x + self.attend(self.norm(x, f"{name}.input_layernorm"), f"{name}.self_attn")
            h = self.norm(x, f"{name}.post_attention_layernorm")
            gate, up = (h @ self.weight(f"{name}.mlp.{part}_proj").T for part in ("gate", "up"))
            x = x + (F.silu(gate) * up) @ self.weight(f"{name}.mlp.down_proj").T
        head = self.weight("lm_head")
        return (self.norm(x, "model.norm") @ (F.normalize(head) if self.normalized else head).T)[None]


CASES: dict[str, dict[str, Any]] = {
    "first": {},
    "second": {"normalized_head": True, "model_max_length": 96},
    "other epsilon and base": {"rms_norm_eps": 1e-2, "rope_theta": 500.0},
}


@pytest.mark.parametrize("case", CASES)
def test_llama_gives_the_same_logits(case: str) -> None:
    check_parity(CARD, {**BASE, **ROPE, **CASES[case]}, Llama)


@pytest.mark.parametrize(
    "changes", [{}, {"normalized_head": True, "hidden_size": 48, "num_attention_heads": 6}], ids=["first", "second"]
)
def test_plain_torch_gives_the_same_logits_with_alibi(changes: dict[str, Any]) -> None:
    check_parity(CARD, {**BASE, **ALIBI, **changes}, Plain)

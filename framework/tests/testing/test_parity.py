"""check_parity: a model against its original in plain torch."""

import json
import sys
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

import pytest
import torch
import torch.nn.functional as F
from kit_config import TINY
from torch import Tensor, nn

from dovetail.api import ModelCard
from dovetail.testing import check_parity

CARD = ModelCard(
    name="small",
    architectures=("SmallForCausalLM",),
    target="kit_models:Small",
    config="kit_config:SmallConfig",
    attention=("sliding",),
)


class Layer(nn.Module):
    def __init__(self, c: dict) -> None:
        super().__init__()
        hidden, self.dim = c["hidden_size"], c["hidden_size"] // c["num_heads"]
        self.norm0, self.norm1 = (nn.RMSNorm(hidden, eps=1e-5) for _ in range(2))
        self.attention, self.mlp = nn.Module(), nn.Module()
        for name, heads in (("q_proj", "num_heads"), ("k_proj", "num_kv_heads"), ("v_proj", "num_kv_heads")):
            setattr(self.attention, name, nn.Linear(hidden, c[heads] * self.dim))
        self.attention.o_proj = nn.Linear(hidden, hidden, bias=False)
        self.mlp.gate_proj, self.mlp.up_proj = (nn.Linear(hidden, c["inner"], bias=False) for _ in range(2))
        self.mlp.down_proj = nn.Linear(c["inner"], hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y, own = self.norm0(x), self.attention
        q, k, v = (p(y).unflatten(-1, (-1, self.dim)).transpose(1, 2) for p in (own.q_proj, own.k_proj, own.v_proj))
        q, k = (h * cos + torch.cat((-h[..., self.dim // 2 :], h[..., : self.dim // 2]), -1) * sin for h in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + own.o_proj(mixed.transpose(1, 2).flatten(-2))
        y = self.norm1(x)
        return x + self.mlp.down_proj(F.silu(self.mlp.gate_proj(y)) * self.mlp.up_proj(y))


class Original(nn.Module):
    """What ``kit_models.Small`` computes, written down once more."""

    theta = 1e4

    def __init__(self, c: dict) -> None:
        super().__init__()
        self.embedding = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.blocks = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        self.dim = c["hidden_size"] // c["num_heads"]

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        angles = torch.arange(ids.shape[1])[:, None] / self.theta ** (torch.arange(0, self.dim, 2) / self.dim)
        wide = torch.cat((angles, angles), -1)
        for block in self.blocks:
            x = block(x, wide.cos(), wide.sin())
        return self.head(x)


class OtherAngles(Original):
    theta = 1e5


class MoreTensors(Original):
    def __init__(self, c: dict) -> None:
        super().__init__(c)
        self.norm = nn.RMSNorm(c["hidden_size"])


class Saved(Original):
    """Writes a checkpoint with other names than it has in memory, and with keys that it was not given."""

    written: ClassVar[dict] = {}

    def __init__(self, c: dict) -> None:
        super().__init__(c)
        self.config = c

    def state_dict(self, *args: Any, **keys: Any) -> dict[str, Tensor]:
        return {f"memory.{name}": value for name, value in super().state_dict(*args, **keys).items()}

    def save_pretrained(self, folder: str) -> None:
        save_file = pytest.importorskip("safetensors.torch").save_file
        save_file(super().state_dict(), Path(folder) / "model.safetensors")
        config = {**self.config, "architectures": ["Theirs"], **self.written}
        (Path(folder) / "config.json").write_text(json.dumps(config))


class WithoutWindow(Saved):
    """Takes a file's window for none, and writes that."""

    written: ClassVar[dict] = {"window": None}


class Constant(Original):
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(torch.zeros_like(ids[:, :1])).expand(1, ids.shape[1], -1)


def test_equal_results_pass() -> None:
    check_parity(CARD, TINY, Original)


def test_what_an_original_saves_is_its_checkpoint() -> None:
    check_parity(CARD, TINY, Saved)
    with pytest.raises(AssertionError, match=r"as it was given, .* \(window differ\): differs"):
        check_parity(CARD, {**TINY, "window": 5}, WithoutWindow)


@pytest.mark.parametrize(
    ("original", "told"),
    [
        (OtherAngles, "the original implementation, OtherAngles: the results of a prompt whole: differs"),
        (MoreTensors, r"refuses what the original implementation writes: CheckpointError: .*unexpected: norm\.weight"),
        (Constant, "gives all tokens the same results"),
    ],
)
def test_other_results_are_told(original: type[Original], told: str) -> None:
    with pytest.raises(AssertionError, match=rf"model 'small'.*{told}"):
        check_parity(CARD, TINY, original)


def test_without_the_original_it_skips_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(SkipTest, match="does not have SmallForCausalLM: name the class"):
        check_parity(CARD, TINY)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SkipTest, match="pip install transformers"):
        check_parity(CARD, TINY)

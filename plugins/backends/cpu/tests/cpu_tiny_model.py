"""A model with all that decoders share, small enough to run hundreds of times."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dovetail.api import AttentionRequirement, ModelCard, ModelConfig, RopeParameters
from dovetail.nn import CausalLM, Context, GatedMLP, Rope, Rotary, SelfAttention, Step

CONFIG: dict[str, Any] = {
    "vocab_size": 331,
    "hidden_size": 192,
    "num_hidden_layers": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
HEADS, KV_HEADS, HEAD_DIM = 6, 2, 32
WINDOW = 100
"""Of every second layer."""


class TinyConfig(ModelConfig):
    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return AttentionRequirement(head_dim=HEAD_DIM), AttentionRequirement(
            features=frozenset({"sliding"}), head_dim=HEAD_DIM
        )


class Block(nn.Module):
    def __init__(self, c: TinyConfig, ctx: Context, name: str, window: int | None) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ctx.norm(f"{name}.norm{i}", c.hidden_size, 1e-5) for i in range(2))
        self.attention = SelfAttention(
            ctx,
            f"{name}.attention",
            channels=c.hidden_size,
            num_heads=HEADS,
            num_kv_heads=KV_HEADS,
            head_dim=HEAD_DIM,
            window=window,
        )
        self.mlp = GatedMLP(ctx, f"{name}.mlp", c.hidden_size, 500)

    def forward(self, x: Tensor, rope: Rope, step: Step) -> Tensor:
        x = x + self.attention(self.norms[0](x), rope, step)
        return x + self.mlp(self.norms[1](x))


class Tiny(CausalLM):
    def __init__(self, c: TinyConfig, ctx: Context) -> None:
        super().__init__()
        self.embedding = ctx.embedding("embedding", c.vocab_size, c.hidden_size)
        self.rotary = Rotary(HEAD_DIM, RopeParameters(), max_position=1024, max_tokens=ctx.max_tokens)
        self.blocks = nn.ModuleList(
            Block(c, ctx, f"blocks.{i}", WINDOW if i % 2 else None) for i in range(c.num_hidden_layers)
        )
        self.head = ctx.head("head", c.hidden_size, c.vocab_size, tied=self.embedding)

    def forward(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens)
        rope = self.rotary(step.positions, x.dtype)
        for block in self.blocks:
            x = block(x, rope, step)
        return x


CARD = ModelCard(
    name="tiny",
    architectures=("TinyForCausalLM",),
    target="cpu_tiny_model:Tiny",
    config="cpu_tiny_model:TinyConfig",
    attention=("sliding",),
    dtypes=("float32", "bfloat16", "float16"),
)

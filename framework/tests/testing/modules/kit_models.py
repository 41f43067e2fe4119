"""A small decoder, and ways to get it wrong."""

import torch
from kit_config import SmallConfig
from torch import Tensor, nn

from dovetail.nn import CausalLM, Context, GatedMLP, PoolingModel, Rope, Rotary, SelfAttention, Step


class SmallBlock(nn.Module):
    def __init__(self, c: SmallConfig, ctx: Context, name: str, causal: bool = True) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ctx.norm(f"{name}.norm{i}", c.hidden_size, 1e-5) for i in range(2))
        self.attention = SelfAttention(
            ctx,
            f"{name}.attention",
            channels=c.hidden_size,
            num_heads=c.num_heads,
            num_kv_heads=c.num_kv_heads,
            head_dim=c.head_dim,
            window=c.window,
            causal=causal,
            bias=True,
        )
        self.mlp = GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.inner)

    def forward(self, x: Tensor, rope: Rope, step: Step) -> Tensor:
        x = x + self.attention(self.norms[0](x), rope, step)
        return x + self.mlp(self.norms[1](x))


class Vectors(PoolingModel):
    """Without a head."""

    causal = True

    def __init__(self, c: SmallConfig, ctx: Context) -> None:
        super().__init__()
        self.embedding = ctx.embedding("embedding", c.vocab_size, c.hidden_size)
        self.rotary = Rotary(c.head_dim, 1e4, None, max_position=64, max_tokens=ctx.max_tokens)
        self.blocks = nn.ModuleList(SmallBlock(c, ctx, f"blocks.{i}", self.causal) for i in range(c.num_hidden_layers))

    def forward(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens)
        rope = self.rotary(self.positions(step), x.dtype)
        for block in self.blocks:
            x = block(x, rope, step)
        return x

    def positions(self, step: Step) -> Tensor:
        return step.positions


class Whole(Vectors):
    """Whose tokens see the whole prompt."""

    causal = False


class WholeLeaking(Whole):
    """Lets a request see its neighbours in the batch."""

    def forward(self, step: Step) -> Tensor:
        x = super().forward(step)
        return x + 0.1 * x.mean(0) if len(step.seq_lens) > 1 else x


class Small(Vectors, CausalLM):
    def __init__(self, c: SmallConfig, ctx: Context) -> None:
        super().__init__(c, ctx)
        self.head = ctx.head(
            "head", c.hidden_size, c.vocab_size, tied=self.embedding if c.tie_word_embeddings else None
        )


class Labelled(Vectors):
    """With a head for two labels."""

    def __init__(self, c: SmallConfig, ctx: Context) -> None:
        super().__init__(c, ctx)
        self.labels = ctx.linear("labels", c.hidden_size, 2)

    def pooled_logits(self, pooled: Tensor) -> Tensor:
        return self.labels(pooled)


class Restarting(Small):
    """Counts positions from the start of each step."""

    def positions(self, step: Step) -> Tensor:
        return torch.arange(len(step.tokens))


class Leaking(Small):
    """Lets a request see its neighbours in the batch."""

    def forward(self, step: Step) -> Tensor:
        x = super().forward(step)
        return x + 0.1 * x.mean(0) if len(step.seq_lens) > 1 else x


class NoHalf(Small):
    """Does not compute in one of the dtypes that its card claims."""

    def __init__(self, c: SmallConfig, ctx: Context) -> None:
        super().__init__(c, ctx)
        if ctx.dtype == torch.float16:
            raise NotImplementedError("no float16 here")


class Inexact(Small):
    """Loses more than roundings explain in bfloat16."""

    def logits(self, hidden: Tensor) -> Tensor:
        logits = super().logits(hidden)
        return logits * 1.5 if hidden.dtype == torch.bfloat16 else logits


class Silent(Small):
    """Gives a missing head the embedding's table without being told to."""

    def __init__(self, c: SmallConfig, ctx: Context) -> None:
        super().__init__(c, ctx)
        self.head._tied = [self.embedding]

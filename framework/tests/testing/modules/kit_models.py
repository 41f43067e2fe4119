"""A small decoder, and ways to get it wrong."""

from collections.abc import Callable

import torch
from kit_config import SmallConfig
from torch import Tensor, nn

from dovetail.api import UsageError
from dovetail.nn import CausalLM, Context, GatedMLP, PoolingModel, Rope, Rotary, RowCut, SelfAttention, Step


class SmallBlock(nn.Module):
    mlp_class: Callable[..., nn.Module] = GatedMLP

    def __init__(self, c: SmallConfig, ctx: Context, name: str) -> None:
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
            bias=True,
        )
        self.mlp = self.mlp_class(ctx, f"{name}.mlp", c.hidden_size, c.inner)

    def forward(self, x: Tensor, rope: Rope, step: Step) -> Tensor:
        x = x + self.attention(self.norms[0](x), rope, step)
        return x + self.mlp(self.norms[1](x))


class Vectors(PoolingModel):
    """Without a head."""

    block_class = SmallBlock

    def __init__(self, c: SmallConfig, ctx: Context) -> None:
        super().__init__()
        self.embedding = ctx.embedding("embedding", c.vocab_size, c.hidden_size)
        self.rotary = Rotary(c.head_dim, 1e4, None, max_position=64, max_tokens=ctx.max_tokens)
        self.blocks = nn.ModuleList(self.block_class(c, ctx, f"blocks.{i}") for i in range(c.num_hidden_layers))

    def forward(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens)
        rope = self.rotary(self.positions(step), x.dtype)
        for block in self.blocks:
            x = block(x, rope, step)
        return x

    def positions(self, step: Step) -> Tensor:
        return step.positions


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


class OwnMLP(nn.Module):
    """Made of layers directly, with one weight for gate and up."""

    def __init__(self, ctx: Context, name: str, channels: int, inner: int) -> None:
        super().__init__()
        self.make(ctx, name, channels, inner)
        self.activation = ctx.ops.activation("silu", gated=True)

    def make(self, ctx: Context, name: str, channels: int, inner: int) -> None:
        start, stop = ctx.parallel.channels(inner)
        sections = RowCut({f"{name}.gate_up": ((start, stop), (inner + start, inner + stop))})
        self.gate_up = ctx.linear(f"{name}.gate_up", channels, 2 * inner, cut=sections)
        self.down = ctx.linear(f"{name}.down", inner, channels, bias=True, cut="columns")

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate_up(x)))


class Sectioned(Small):
    """Right: cuts both sections of one weight."""

    class block_class(SmallBlock):
        mlp_class = OwnMLP


class Unsectioned(Small):
    """Cuts gate and up as if they were one."""

    class block_class(SmallBlock):
        class mlp_class(OwnMLP):
            def make(self, ctx: Context, name: str, channels: int, inner: int) -> None:
                self.gate_up = ctx.linear(f"{name}.gate_up", channels, 2 * inner, cut="rows")
                self.down = ctx.linear(f"{name}.down", inner, channels, cut="columns")


class WholeDown(Small):
    """Forgets to cut what follows a layer that is cut."""

    class block_class(SmallBlock):
        class mlp_class(OwnMLP):
            def make(self, ctx: Context, name: str, channels: int, inner: int) -> None:
                super().make(ctx, f"{name}.unused", channels, inner)
                self.down = ctx.linear(f"{name}.down", inner, channels)


class OftenAdded(Small):
    """Every rank adds the bias to its own part of the sum."""

    class block_class(SmallBlock):
        class mlp_class(OwnMLP):
            def forward(self, x: Tensor) -> Tensor:
                out, more = super().forward(x), self.down.parallel.size - 1
                return out + more * self.down.bias


class Uncut(Small):
    """Right, but each rank has all of every MLP."""

    class block_class(SmallBlock):
        class mlp_class(OwnMLP):
            def make(self, ctx: Context, name: str, channels: int, inner: int) -> None:
                self.gate_up = ctx.linear(f"{name}.gate_up", channels, 2 * inner)
                self.down = ctx.linear(f"{name}.down", inner, channels)


class Straying(Small):
    """Ranks that go separate ways."""

    def __init__(self, c: SmallConfig, ctx: Context) -> None:
        super().__init__(c, ctx)
        self.parallel = ctx.parallel

    def forward(self, step: Step) -> Tensor:
        x = super().forward(step)
        return self.parallel.communicator.all_reduce(x) if self.parallel.rank else x


class Scattered(Small):
    """Ranks with other outputs."""

    def __init__(self, c: SmallConfig, ctx: Context) -> None:
        super().__init__(c, ctx)
        self.rank = ctx.parallel.rank

    def logits(self, hidden: Tensor) -> Tensor:
        return super().logits(hidden) * (1 + 1e-3 * self.rank)


class Indivisible(Small):
    """Refuses several devices."""

    def __init__(self, c: SmallConfig, ctx: Context) -> None:
        super().__init__(c, ctx)
        if ctx.parallel.size > 1:
            raise UsageError("one device only")

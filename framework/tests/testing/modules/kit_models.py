"""A small decoder, and ways to get it wrong."""

import torch
from kit_config import SmallConfig
from torch import Tensor, nn

from dovetail.api import RopeParameters
from dovetail.nn import CausalLM, Context, GatedMLP, PoolingModel, Rope, Rotary, SelfAttention, Step


class SmallBlock(nn.Module):
    def __init__(
        self, c: SmallConfig, ctx: Context, name: str, mlp_class: type[nn.Module], causal: bool = True
    ) -> None:
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
        self.mlp = mlp_class(ctx, f"{name}.mlp", c.hidden_size, c.inner)

    def forward(self, x: Tensor, rope: Rope | None, step: Step) -> Tensor:
        x = x + self.attention(self.norms[0](x), rope, step)
        return x + self.mlp(self.norms[1](x))


class Vectors(PoolingModel):
    """Without a head."""

    mlp_class: type[nn.Module] = GatedMLP
    causal = True

    def __init__(self, c: SmallConfig, ctx: Context) -> None:
        super().__init__()
        self.embedding = ctx.embedding("embedding", c.vocab_size, c.hidden_size)
        self.rotary = Rotary(c.head_dim, RopeParameters(), max_position=64, max_tokens=ctx.max_tokens)
        names = [f"blocks.{i}" for i in range(c.num_hidden_layers)]
        self.blocks = nn.ModuleList(SmallBlock(c, ctx, name, self.mlp_class, self.causal) for name in names)

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


class Idle(Small):
    """Makes layers that it never calls, or whose result it drops, and a norm."""

    def __init__(self, c: SmallConfig, ctx: Context) -> None:
        super().__init__(c, ctx)
        self.idle = ctx.linear({"idle.a": 8, "idle.b": 8}, c.hidden_size, bias=True)
        self.dropped = ctx.linear("dropped", c.hidden_size, 8)
        self.norm = ctx.norm("idle.norm", c.hidden_size, 1e-5)
        names = [(f"experts.{e}.gate", f"experts.{e}.up", f"experts.{e}.down") for e in range(4)]
        self.experts = ctx.experts(names, c.hidden_size, 16, 2)

    def forward(self, step: Step) -> Tensor:
        x = super().forward(step)
        self.dropped(x)
        return x


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


class Reading(Small):
    """Its layers' code reads how long the longest request is."""

    def forward(self, step: Step) -> Tensor:
        x = super().forward(step)
        return x if step.seq_lens.max() > 0 else x + 1  # reads


class Listing(Small):
    """Reads without an operation."""

    def forward(self, step: Step) -> Tensor:
        longest = max(step.seq_lens.tolist())  # reads
        return super().forward(step) * (longest > 0)


class Masking(Small):
    """Indexes with a mask."""

    def forward(self, step: Step) -> Tensor:
        x = super().forward(step)
        late = step.positions > 3
        x[late] = x[late] * 1.0  # reads
        return x


class Scoring(Labelled):
    """Reads where it maps vectors to labels."""

    def pooled_logits(self, pooled: Tensor) -> Tensor:
        return self.labels(pooled) * pooled.abs().sum().sign().item()  # reads


class Masked(Small):
    """Does without reading what may look like a read: fills by mask, and gathers by index."""

    def forward(self, step: Step) -> Tensor:
        x = super().forward(step)
        x[step.positions < 0] = 0.0
        return torch.where((step.positions < 0)[:, None], 0.0, x)[torch.arange(len(x))]


class Unturned(Small):
    """Has angles, and does not give them to its layers."""

    def forward(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens)
        for block in self.blocks:
            x = block(x, None, step)
        return x


class HalfTurned(Small):
    """Its last layer does not know positions."""

    def forward(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens)
        rope = self.rotary(step.positions, x.dtype)
        for number, block in enumerate(self.blocks):
            x = block(x, None if number else rope, step)
        return x


class Deaf(Small):
    """Leaves out what its attention finds."""

    def __init__(self, c: SmallConfig, ctx: Context) -> None:
        super().__init__(c, ctx)
        for block in self.blocks:
            block.attention.register_forward_hook(lambda module, arguments, result: result * 0)


class QueriesTurned(Small):
    """Turns queries and leaves keys as they are."""

    def __init__(self, c: SmallConfig, ctx: Context) -> None:
        super().__init__(c, ctx)
        for block in self.blocks:
            turn, heads = block.attention.rope, c.num_heads

            def queries(qk: Tensor, *rope: object, turn=turn, heads=heads) -> Tensor:
                return torch.cat((turn(qk, *rope)[:, :heads], qk[:, heads:]), 1)

            block.attention.rope = queries


class Speechless(Small):
    """Forgets to return."""

    def forward(self, step: Step) -> Tensor:
        super().forward(step)


class Relisting(Small):
    """Gives the parts of a name."""

    def rename(self, name: str) -> str | None:
        return name.split(".")


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

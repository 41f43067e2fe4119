"""The small decoder on several devices, and ways to get it wrong."""

from kit_config import SmallConfig
from kit_models import Small
from torch import Tensor, nn

from dovetail.api import UsageError
from dovetail.nn import Context, RowCut, Step


class SectionedMLP(nn.Module):
    """Right: one weight for gate and up, of which both sections are cut."""

    def __init__(self, ctx: Context, name: str, channels: int, inner: int) -> None:
        super().__init__()
        self.activation = ctx.ops.activation("silu", gated=True)
        self.make(ctx, name, channels, inner)

    def make(self, ctx: Context, name: str, channels: int, inner: int) -> None:
        start, stop = ctx.parallel.channels(inner)
        sections = RowCut({f"{name}.gate_up": ((start, stop), (inner + start, inner + stop))})
        self.gate_up = ctx.linear(f"{name}.gate_up", channels, 2 * inner, cut=sections)
        self.down = ctx.linear(f"{name}.down", inner, channels, bias=True, cut="columns")

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate_up(x)))


class UnsectionedMLP(SectionedMLP):
    def make(self, ctx: Context, name: str, channels: int, inner: int) -> None:
        self.gate_up = ctx.linear(f"{name}.gate_up", channels, 2 * inner, cut="rows")
        self.down = ctx.linear(f"{name}.down", inner, channels, cut="columns")


class WholeDownMLP(SectionedMLP):
    def make(self, ctx: Context, name: str, channels: int, inner: int) -> None:
        self.gate_up = ctx.linear({f"{name}.gate": inner, f"{name}.up": inner}, channels, cut="rows")
        self.down = ctx.linear(f"{name}.down", inner, channels)


class UncutMLP(SectionedMLP):
    def make(self, ctx: Context, name: str, channels: int, inner: int) -> None:
        self.gate_up = ctx.linear(f"{name}.gate_up", channels, 2 * inner)
        self.down = ctx.linear(f"{name}.down", inner, channels)


class OftenAddedMLP(SectionedMLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (self.down.parallel.size - 1) * self.down.bias


class Sectioned(Small):
    mlp_class = SectionedMLP


class Unsectioned(Small):
    """Cuts gate and up as if they were one."""

    mlp_class = UnsectionedMLP


class WholeDown(Small):
    """Forgets to cut what follows a layer that is cut."""

    mlp_class = WholeDownMLP


class Uncut(Small):
    """Computes the right thing, but each rank has all of every MLP."""

    mlp_class = UncutMLP


class OftenAdded(Small):
    """As if every rank added the bias to its own part of the sum."""

    mlp_class = OftenAddedMLP


class Straying(Small):
    """Ranks that exchange other things."""

    def __init__(self, c: SmallConfig, ctx: Context) -> None:
        super().__init__(c, ctx)
        self.parallel = ctx.parallel

    def forward(self, step: Step) -> Tensor:
        x = super().forward(step)
        return self.parallel.communicator.all_reduce(x) if self.parallel.rank else x


class Scattered(Small):
    """Ranks that disagree about the outputs."""

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

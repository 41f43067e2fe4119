"""Attention backends: a right one, and ways to get it wrong."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dovetail.nn import AttentionSpec, KVIndex, Step
from dovetail.testing import ReferenceAttention


class Right(ReferenceAttention):
    compute_dtype = torch.float32


class Unmasked(Right):
    """Lets a token see those after it in its chunk."""

    def visible(self, spec: AttentionSpec, position: int, length: int) -> slice:
        return slice(0, None)


class Windowless(Right):
    """Claims sliding windows, and does not slide."""

    def visible(self, spec: AttentionSpec, position: int, length: int) -> slice:
        return slice(0, position + 1)


class OffByOne(Right):
    """Counts the window without the token itself."""

    def visible(self, spec: AttentionSpec, position: int, length: int) -> slice:
        first = 0 if spec.window is None else max(0, position - spec.window)
        return slice(first, position + 1)


class WholeBlocks(Right):
    """Reads a request's last block to its end."""

    def slots(self, table: Tensor, length: int) -> Tensor:
        return super().slots(table, -(-length // self.block_size) * self.block_size)

    def visible(self, spec: AttentionSpec, position: int, length: int) -> slice:
        seen = super().visible(spec, position, length)
        return slice(seen.start, -(-seen.stop // self.block_size) * self.block_size)


class Contiguous(Right):
    """Takes a request's blocks to follow each other."""

    def slots(self, table: Tensor, length: int) -> Tensor:
        return table[0] * self.block_size + torch.arange(length)


class WrongHeads(Right):
    """Deals query heads out to key-value heads in turns."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, away: Tensor, spec: AttentionSpec, sinks: Any) -> Tensor:
        turns = torch.arange(spec.num_heads) % spec.num_kv_heads * (spec.num_heads // spec.num_kv_heads)
        return super().attend(q, k[:, turns], v[:, turns], away, spec, sinks)


class Mutating(Right):
    """Scales the queries where they stand."""

    def forward(self, q: Tensor, k: Any, v: Any, cache: Any, step: Step, index: KVIndex, *rest: Any) -> Tensor:
        out = super().forward(q, k, v, cache, step, index, *rest)
        q *= 2
        return out


class Greedy(Right):
    """Holds more memory than it says."""

    def block_bytes(self, spec: AttentionSpec) -> int:
        return super().block_bytes(spec) // 2


class NoHalf(Right):
    """Does not do one of the dtypes that its card claims."""

    def prepare(self, step: Step, index: KVIndex, specs: frozenset[AttentionSpec]) -> None:
        if self.dtype == torch.float16:
            raise NotImplementedError("no float16 here")


class Large(Right):
    """Wrong for one of the claimed head sizes only."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, away: Tensor, spec: AttentionSpec, sinks: Any) -> Tensor:
        out = super().attend(q, k, v, away, spec, sinks)
        return out * 1.01 if spec.head_dim == 128 else out


class Invariant(Right):
    """Claims that a token's bits depend on nothing beside it, which is so: it computes one token at a time."""

    def is_batch_invariant(self, spec: AttentionSpec) -> bool:
        return True


class Crowded(Invariant):
    """Rounds in another way where several requests share a step."""

    def forward(self, q: Tensor, k: Any, v: Any, cache: Any, step: Step, index: KVIndex, *rest: Any) -> Tensor:
        out = super().forward(q, k, v, cache, step, index, *rest)
        return out if len(step.seq_lens) == 1 else out * (1 + 1e-6)


class Placed(Invariant):
    """Rounds in another way at a chunk's beginning."""

    def forward(self, q: Tensor, k: Any, v: Any, cache: Any, step: Step, index: KVIndex, *rest: Any) -> Tensor:
        out = super().forward(q, k, v, cache, step, index, *rest)
        out[0] *= 1 + 1e-6
        return out


class OnlyPlain(Invariant):
    """Is batch invariant in one kind of layer, and says so."""

    def is_batch_invariant(self, spec: AttentionSpec) -> bool:
        return not spec.features

    def forward(self, q: Tensor, k: Any, v: Any, cache: Any, step: Step, index: KVIndex, *rest: Any) -> Tensor:
        out = super().forward(q, k, v, cache, step, index, *rest)
        return out * (1 + 1e-6) if rest[0].features and len(step.seq_lens) > 1 else out


class Forgetful(Right):
    """Leaves out what ``IGNORED`` names."""

    IGNORED: dict[str, Any] = {}

    def forward(
        self,
        q: Tensor,
        k: Any,
        v: Any,
        cache: Any,
        step: Step,
        index: KVIndex,
        spec: AttentionSpec,
        sinks: Tensor | None = None,
    ) -> Tensor:
        less = replace(spec, **self.IGNORED)
        return super().forward(q, k, v, cache, step, index, less, sinks if less.sinks else None)


class Uncapped(Forgetful):
    IGNORED = {"softcap": None}


class Sinkless(Forgetful):
    IGNORED = {"sinks": False}


class Unbiased(Forgetful):
    IGNORED = {"alibi_slopes": None}


class OneSlope(Right):
    """Gives all heads the slope of the first."""

    def alibi_slopes(self, spec: AttentionSpec) -> Tensor | None:
        slopes = super().alibi_slopes(spec)
        return None if slopes is None else slopes[:1].expand(spec.num_heads)


class BiasedFirst(Right):
    """Bends the scores after their biases, where both come together."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, away: Tensor, spec: AttentionSpec, sinks: Any) -> Tensor:
        slopes = self.alibi_slopes(spec)
        if slopes is None or spec.softcap is None:
            return super().attend(q, k, v, away, spec, sinks)
        scores = torch.einsum("hd,shd->sh", q, k) * spec.scale - slopes.to(q) * away[:, None]
        weights = (spec.softcap * (scores / spec.softcap).tanh()).softmax(0)
        return torch.einsum("sh,shv->hv", weights, v)


class Windowed(Right):
    """Takes a chunk for a window of its size."""

    def visible(self, spec: AttentionSpec, position: int, length: int) -> slice:
        if spec.chunk is not None:
            spec = replace(spec, chunk=None, window=spec.chunk)
        return super().visible(spec, position, length)


class Causal(Right):
    """Sees nothing after a token in layers that see everything."""

    def visible(self, spec: AttentionSpec, position: int, length: int) -> slice:
        return super().visible(replace(spec, causal=True), position, length)


class OneSided(Right):
    """Has a window before a token, and none after it."""

    def visible(self, spec: AttentionSpec, position: int, length: int) -> slice:
        seen = super().visible(spec, position, length)
        return seen if spec.causal else slice(seen.start, length)


class LastChannels(Right):
    """Takes the last channels of a latent row for its value."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, away: Tensor, spec: AttentionSpec, sinks: Any) -> Tensor:
        return super().attend(q, k, k[..., -spec.values :] if spec.latent else v, away, spec, sinks)


class CapsAfterSinks(Right):
    """Bends the sinks, too, where both come together."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, away: Tensor, spec: AttentionSpec, sinks: Any) -> Tensor:
        if sinks is not None and spec.softcap is not None:
            sinks = spec.softcap * (sinks / spec.softcap).tanh()
        return super().attend(q, k, v, away, spec, sinks)


class Owning(Right):
    """Plans memory for a layer that has no cache of its own."""

    def block_bytes(self, spec: AttentionSpec) -> int:
        return super().block_bytes(replace(spec, shared_cache=False))


def no() -> str:
    return "this machine is the wrong one"


def broken() -> str:
    raise RuntimeError("boom")

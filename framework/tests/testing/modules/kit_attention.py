"""Attention backends: a right one, and ways to get it wrong."""

import torch
from torch import Tensor

from dovetail.nn import AttentionSpec, KVIndex, Step
from dovetail.testing import ReferenceAttention


class Right(ReferenceAttention):
    compute_dtype = torch.float32


class Unmasked(Right):
    """Lets a token see those after it in its chunk."""

    def visible(self, spec: AttentionSpec, position: int) -> slice:
        return slice(0, None)


class Windowless(Right):
    """Claims sliding windows, and does not slide."""

    def visible(self, spec: AttentionSpec, position: int) -> slice:
        return slice(0, position + 1)


class OffByOne(Right):
    """Counts the window without the token itself."""

    def visible(self, spec: AttentionSpec, position: int) -> slice:
        first = 0 if spec.window is None else max(0, position - spec.window)
        return slice(first, position + 1)


class WholeBlocks(Right):
    """Reads a request's last block to its end."""

    def slots(self, table: Tensor, length: int) -> Tensor:
        return super().slots(table, -(-length // self.block_size) * self.block_size)

    def visible(self, spec: AttentionSpec, position: int) -> slice:
        seen = super().visible(spec, position)
        return slice(seen.start, -(-seen.stop // self.block_size) * self.block_size)


class Contiguous(Right):
    """Takes a request's blocks to follow each other."""

    def slots(self, table: Tensor, length: int) -> Tensor:
        return table[0] * self.block_size + torch.arange(length)


class WrongHeads(Right):
    """Deals query heads out to key-value heads in turns."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> Tensor:
        turns = torch.arange(spec.num_heads) % spec.num_kv_heads * (spec.num_heads // spec.num_kv_heads)
        return super().attend(q, k[:, turns], v[:, turns], spec)


class Mutating(Right):
    """Scales the queries where they stand."""

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: tuple[Tensor, Tensor],
        step: Step,
        index: KVIndex,
        spec: AttentionSpec,
    ) -> Tensor:
        out = super().forward(q, k, v, cache, step, index, spec)
        q *= spec.scale
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

    def attend(self, q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> Tensor:
        out = super().attend(q, k, v, spec)
        return out * 1.01 if spec.head_dim == 128 else out


class Invariant(Right):
    """Claims that a token's bits depend on nothing beside it, which is so: it computes one token at a time."""

    batch_invariant = True


class Crowded(Invariant):
    """Rounds in another way where several requests share a step."""

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: tuple[Tensor, Tensor],
        step: Step,
        index: KVIndex,
        spec: AttentionSpec,
    ) -> Tensor:
        out = super().forward(q, k, v, cache, step, index, spec)
        return out if len(step.seq_lens) == 1 else out * (1 + 1e-6)


class Placed(Invariant):
    """Rounds in another way at a chunk's beginning."""

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: tuple[Tensor, Tensor],
        step: Step,
        index: KVIndex,
        spec: AttentionSpec,
    ) -> Tensor:
        out = super().forward(q, k, v, cache, step, index, spec)
        out[0] *= 1 + 1e-6
        return out


def no() -> str:
    return "this machine is the wrong one"


def broken() -> str:
    raise RuntimeError("boom")

"""Parts of plugins that are broken, each in one way. They build on real ones, and are right in everything else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from dovetail_backends_cpu.attention import SdpaAttention
from dovetail_backends_cpu.platform import CpuPlatform
from dovetail_loaders_safetensors.inspection import inspect
from dovetail_loaders_safetensors.loading import load
from dovetail_models_llama.config import LlamaConfig
from dovetail_models_llama.model import LlamaForCausalLM
from pydantic import BaseModel, model_validator

from dovetail.api import AttentionRequirement, Checkpoint, LazyTensor, Proposer, RequestError
from dovetail.nn import Context
from dovetail.nn.dense import DenseFormat, DenseKernel, DenseWeight
from dovetail.nn.ops import Ops, rms_norm

__all__ = ["inspect", "load"]


class Cracked(BaseException):
    """As a panic of a compiled library: no ``Exception``."""


def fail(*_: Any, **__: Any) -> Any:
    raise Cracked("the shell is cracked")


def give_list(*_: Any, **__: Any) -> Any:
    return ["shell"]


def give_nothing(*_: Any, **__: Any) -> Any:
    return ""


def leave(*_: Any, **__: Any) -> Any:
    raise SystemExit(7)


def press(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


# Configurations.


class StumblingConfig(LlamaConfig):
    @model_validator(mode="after")
    def _stumble(self) -> StumblingConfig:
        raise KeyError("shell")


class SilentConfig(LlamaConfig):
    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        raise Cracked("which attention?")


class WordyConfig(LlamaConfig):
    def attention_requirements(self) -> Any:
        return "full"


class EndlessConfig(LlamaConfig):
    def longest_context(self) -> Any:
        return float("inf")


# Models, by the tensors that their layers ask for.


class Misnaming(LlamaForCausalLM):
    def __init__(self, config: LlamaConfig, ctx: Context) -> None:
        super().__init__(config, ctx)
        ctx.vectors["model.shell.weight"] = ctx.vectors.pop("model.norm.weight")


class Misshaping(LlamaForCausalLM):
    def __init__(self, config: LlamaConfig, ctx: Context) -> None:
        super().__init__(config, ctx)
        norm = ctx.vectors["model.norm.weight"]
        ctx.vectors["model.norm.weight"] = replace(norm, shape=(norm.shape[0] + 1,))


class Omitting(LlamaForCausalLM):
    def __init__(self, config: LlamaConfig, ctx: Context) -> None:
        super().__init__(config, ctx)
        del ctx.vectors["model.norm.weight"]


# Loaders.


def load_nothing(checkpoint: Checkpoint, expected: Any, device: torch.device) -> Any:
    return None


def load_pairs(checkpoint: Checkpoint, expected: Any, device: torch.device) -> Iterator[Any]:
    for lazy in load(checkpoint, expected, device):
        yield lazy.name, lazy.read()


def load_half(checkpoint: Checkpoint, expected: Any, device: torch.device) -> Iterator[LazyTensor]:
    yield next(load(checkpoint, expected, device))
    raise OSError("the disk is gone")


def load_unreadable(checkpoint: Checkpoint, expected: Any, device: torch.device) -> Iterator[LazyTensor]:
    for lazy in load(checkpoint, expected, device):
        yield replace(lazy, read=fail) if "layers.1.mlp.up" in lazy.name else lazy


def load_flat(checkpoint: Checkpoint, expected: Any, device: torch.device) -> Iterator[LazyTensor]:
    for lazy in load(checkpoint, expected, device):
        yield replace(lazy, read=lambda lazy=lazy: lazy.read().flatten())


def load_gap(checkpoint: Checkpoint, expected: Any, device: torch.device) -> Iterator[Any]:
    first, *others = load(checkpoint, expected, device)
    yield from (first, None, *others)


def load_twice(checkpoint: Checkpoint, expected: Any, device: torch.device) -> Iterator[LazyTensor]:
    for lazy in load(checkpoint, expected, device):
        yield from [lazy] * (2 if lazy.name == "model.norm.weight" else 1)


def load_fewer(checkpoint: Checkpoint, expected: Any, device: torch.device) -> Iterator[LazyTensor]:
    yield from (lazy for lazy in load(checkpoint, expected, device) if lazy.name != "model.norm.weight")


def load_renamed(checkpoint: Checkpoint, expected: Any, device: torch.device) -> Iterator[LazyTensor]:
    for lazy in load(checkpoint, expected, device):
        yield replace(lazy, name=lazy.name.replace("model.norm", "model.nutty"))


def load_mistyped(checkpoint: Checkpoint, expected: Any, device: torch.device) -> Iterator[LazyTensor]:
    for lazy in load(checkpoint, expected, device):
        yield replace(lazy, type="nut4") if lazy.name == "model.norm.weight" else lazy


def load_untyped(checkpoint: Checkpoint, expected: Any, device: torch.device) -> Iterator[LazyTensor]:
    for lazy in load(checkpoint, expected, device):
        untyped: Any = torch.float32
        yield replace(lazy, type=untyped)


# Formats and kernels.


class FormatOfNothing(DenseFormat):
    def load(self, tensors: Mapping[str, LazyTensor], *arguments: Any) -> Any:
        return None


class UnmadeFormat(DenseFormat):
    def __init__(self, *arguments: Any) -> None:
        fail()


class FailingFormat(DenseFormat):
    def load(self, tensors: Mapping[str, LazyTensor], *arguments: Any) -> Any:
        fail()


class BareWeight(DenseWeight):
    def dequantize(self, dtype: Any) -> Any:
        fail()


class BareFormat(DenseFormat):
    """Its weights fail later, when a kernel takes them."""

    def load(self, weight: Any, tensors: Mapping[str, LazyTensor], *arguments: Any) -> Any:
        found = super().load(weight, tensors, *arguments)
        return BareWeight.of(found.data, found.type)


class FailingKernel(DenseKernel):
    def __init__(self, *arguments: Any) -> None:
        fail()


class ListingKernel(DenseKernel):
    unsupported_reason = classmethod(give_list)


class MuteKernel(DenseKernel):
    @classmethod
    def unsupported_reason(cls, *_: Any) -> str | None:
        return ""


class UnpreparedKernel(DenseKernel):
    def process_after_loading(self) -> None:
        leave()


class WordyKernel(DenseKernel):
    nbytes: Any = "many"


class CrackingKernel(DenseKernel):
    def __call__(self, x: Any) -> Any:
        fail()


class ShortKernel(DenseKernel):
    def __call__(self, x: Any) -> Any:
        return super().__call__(x)[..., 1:]


class WideKernel(DenseKernel):
    def __call__(self, x: Any) -> Any:
        return super().__call__(x).double()


class AbsentKernel(DenseKernel):
    def __call__(self, x: Any) -> Any:
        return super().__call__(x).to("meta")


class NarrowGateKernel(DenseKernel):
    def multiply_gated(self, *arguments: Any) -> Any:
        return super().multiply_gated(*arguments)[:, 1:]


# Platforms and attention.


class FailingPlatform(CpuPlatform):
    def __init__(self) -> None:
        fail()


class ForgetfulPlatform(CpuPlatform):
    def memory(self) -> Any:
        return 2**30


class IndebtedPlatform(CpuPlatform):
    def kv_cache_bytes(self, utilization: float, reserved: int) -> int:
        return -(2**20)


class HomelessPlatform(CpuPlatform):
    def __init__(self) -> None:
        self.device: Any = "cpu"


class StuckPlatform(CpuPlatform):
    def upload(self, values: Any) -> Any:
        fail()


class ForeignPlatform(CpuPlatform):
    def upload(self, values: Any) -> Any:
        return values


class SilentPlatform(CpuPlatform):
    def fetch(self, values: Any) -> Any:
        return None


class FailingAttention(SdpaAttention):
    def __init__(self, **options: Any) -> None:
        fail()


class FlatAttention(SdpaAttention):
    def forward(self, *arguments: Any, **options: Any) -> Any:
        return super().forward(*arguments, **options).flatten(1)


class FlatRotatingAttention(SdpaAttention):
    def forward_rotated(self, *arguments: Any, **options: Any) -> Any:
        return super().forward_rotated(*arguments, **options).flatten(1)


class WideGates(CpuPlatform):
    def operations(self) -> Any:
        return {**super().operations(), "silu_mul": lambda x: Ops.silu_mul(x).double()}


class WideOperations(CpuPlatform):
    def operations(self) -> Any:
        return {**super().operations(), "rms_norm": lambda *arguments: rms_norm(*arguments).double()}


class LoneOperations(CpuPlatform):
    def operations(self) -> Any:
        return {**super().operations(), "add_rms_norm": lambda x, _, *others: rms_norm(x, *others)}


class CrackingAttention(SdpaAttention):
    def forward(self, *arguments: Any, **options: Any) -> Any:
        fail()


class RoomlessAttention(SdpaAttention):
    def allocate(self, *arguments: Any) -> Any:
        fail()


class IndebtedAttention(SdpaAttention):
    def block_bytes(self, spec: Any) -> int:
        return -super().block_bytes(spec)


class EagerAttention(SdpaAttention):
    def workspace_bytes(self, *arguments: Any) -> Any:
        return 0.5


class NoAttention:
    """No backend."""


# Models.


class UnbuiltModel(LlamaForCausalLM):
    def __init__(self, c: LlamaConfig, ctx: Any) -> None:
        super().__init__(c, ctx)
        fail()


class NoModel(torch.nn.Module):
    def __init__(self, c: LlamaConfig, ctx: Any) -> None:
        super().__init__()


class StumblingModel(LlamaForCausalLM):
    """Fails in the third step of a request whose prompt has 5 tokens."""

    def forward(self, step: Any) -> torch.Tensor:
        if int(step.positions.max()) == 6:
            fail()
        return super().forward(step)


class PickyModel(LlamaForCausalLM):
    """Raises what is for users."""

    def forward(self, step: Any) -> Any:
        raise RequestError("no such shell", "take another")


class HungryModel(LlamaForCausalLM):
    def forward(self, step: Any) -> Any:
        raise MemoryError


class PairModel(LlamaForCausalLM):
    def forward(self, step: Any) -> Any:
        return super().forward(step), None


class ShortModel(LlamaForCausalLM):
    def forward(self, step: Any) -> torch.Tensor:
        return super().forward(step)[:-1]


class NarrowModel(LlamaForCausalLM):
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().logits(hidden)[:, :-1]


class NanModel(LlamaForCausalLM):
    """The logits after the token 7 are no numbers."""

    def forward(self, step: Any) -> torch.Tensor:
        hidden = super().forward(step)
        return torch.where((step.tokens == 7)[:, None], torch.nan, hidden)


# Proposers.


class Options(BaseModel):
    """None."""


class FailingProposer(Proposer):
    def __init__(self, config: Any, context: Any) -> None:
        fail()

    def propose(self, sequences: Any) -> Any:
        return []

    def forget(self, ids: Any) -> None:
        pass

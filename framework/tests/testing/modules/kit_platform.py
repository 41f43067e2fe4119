"""Platforms: a right one with operations of its own, and ways to get it wrong."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dovetail.nn import Memory
from dovetail.nn.ops import ACTIVATIONS, REFERENCES, rms_norm, softcap
from dovetail.testing import ReferencePlatform

silu_mul = REFERENCES["silu_mul"]


class Right(ReferencePlatform):
    def operations(self) -> Mapping[str, Callable[..., Any]]:
        return {"silu_mul": silu_mul, "rms_norm": rms_norm}


class OfPlugin(ReferencePlatform):
    """Claims an operation that a plugin adds."""

    batch_invariant = True

    def operations(self) -> Mapping[str, Callable[..., Any]]:
        return {**Invariant().operations(), "package.halve": lambda x: x / 2}


class OfPluginCrowded(OfPlugin):
    def operations(self) -> Mapping[str, Callable[..., Any]]:
        return {**super().operations(), "package.halve": lambda x: x / 2 * (1 + 1e-6 * (len(x) > 4))}


class RoundsFirst(ReferencePlatform):
    """Applies a scale in float32 to numbers that it has rounded."""

    def operations(self) -> Mapping[str, Callable[..., Any]]:
        return {"rms_norm": lambda x, weight, eps: rms_norm(x, weight.to(x.dtype), eps)}


class StaysWide(ReferencePlatform):
    """Forgets to round to the dtype of activations."""

    def operations(self) -> Mapping[str, Callable[..., Any]]:
        return {"softcap": lambda x, cap: softcap(x.float(), cap)}


class OnePercent(ReferencePlatform):
    def operations(self) -> Mapping[str, Callable[..., Any]]:
        return {"silu_mul": lambda x: silu_mul(x) * 1.01}


class InPlace(ReferencePlatform):
    def operations(self) -> Mapping[str, Callable[..., Any]]:
        def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
            return x.copy_(rms_norm(x, weight, eps))

        return {"rms_norm": norm}


def by_rows(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, *others: torch.stack([operation(row, *others) for row in x])


class Invariant(ReferencePlatform):
    """Claims that rows do not depend on each other. It sees to that one row at a time."""

    batch_invariant = True

    def operations(self) -> Mapping[str, Callable[..., Any]]:
        names = [activation.__name__ for activation in ACTIVATIONS]
        elementwise = ["softcap", *names, *(f"{name}_mul" for name in names)]
        return {
            "linear": lambda x, weight: torch.stack([torch.mv(weight, row) for row in x]),
            "linear_by_head": by_rows(lambda x, weight: torch.einsum("hk,hnk->hn", x, weight)),
            **{name: by_rows(REFERENCES[name]) for name in elementwise},
        }


class Crowded(Invariant):
    """Rounds in another way where there are many rows."""

    def operations(self) -> Mapping[str, Callable[..., Any]]:
        right = super().operations()["linear"]
        return {"linear": lambda x, weight: right(x, weight) * (1 + 1e-6 * (len(x) > 400))}


class Inventive(ReferencePlatform):
    def operations(self) -> Mapping[str, Callable[..., Any]]:
        return {"no_such_operation": silu_mul}


class Elsewhere(ReferencePlatform):
    def __init__(self) -> None:
        self.device = torch.device("meta")


class Boundless(ReferencePlatform):
    def kv_cache_bytes(self, utilization: float, reserved: int) -> int:
        return self.memory().total * 2


class Shrinking(ReferencePlatform):
    def kv_cache_bytes(self, utilization: float, reserved: int) -> int:
        return int(self.memory().total * (1 - utilization))


class Unreserving(ReferencePlatform):
    def kv_cache_bytes(self, utilization: float, reserved: int) -> int:
        return int(self.memory().total * utilization)


class Numbered(ReferencePlatform):
    def memory(self) -> Any:
        return 5


class Overfull(ReferencePlatform):
    def memory(self) -> Memory:
        return Memory(total=1, free=2)

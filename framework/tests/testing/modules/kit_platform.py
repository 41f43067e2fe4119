"""Platforms: a right one with operations of its own, and ways to get it wrong."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dovetail.nn import Memory
from dovetail.nn.ops import rms_norm, silu_mul
from dovetail.testing import ReferencePlatform


class Right(ReferencePlatform):
    def operations(self) -> Mapping[str, Callable[..., Any]]:
        return {"silu_mul": silu_mul, "rms_norm": rms_norm}


class OnePercent(ReferencePlatform):
    def operations(self) -> Mapping[str, Callable[..., Any]]:
        return {"silu_mul": lambda x: silu_mul(x) * 1.01}


class InPlace(ReferencePlatform):
    def operations(self) -> Mapping[str, Callable[..., Any]]:
        def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
            return x.copy_(rms_norm(x, weight, eps))

        return {"rms_norm": norm}


class Invariant(ReferencePlatform):
    """Claims that rows do not depend on each other. Its product sees to that one row at a time."""

    batch_invariant = True

    def operations(self) -> Mapping[str, Callable[..., Any]]:
        # The element-wise operations are compared on one thread.
        return {"linear": lambda x, weight: torch.stack([torch.mv(weight, row) for row in x])}


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


class Overfull(ReferencePlatform):
    def memory(self) -> Memory:
        return Memory(total=1, free=2)

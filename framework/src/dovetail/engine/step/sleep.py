"""Sleep mode: frees the device's memory, and allocates it again."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dovetail.api.errors import RequestError
from dovetail.engine.step.runner import ModelRunner

WEIGHTS, CACHE = "weights", "kv_cache"
"""The parts that can sleep, as :meth:`Sleeper.wake_up` names them."""
ATOMIC_TYPES = (type, ModuleType, str, bytes, int, float, torch.dtype, torch.device)
"""Objects of these types are not searched for a model's tensors."""


class Sleeper:
    """Frees and restores a runner's memory. Nothing may be running on it then.

    Attributes:
        asleep: names of the parts that sleep.
    """

    def __init__(self, runner: ModelRunner, counts: list[int]) -> None:
        self.runner = runner
        self.num_blocks = counts
        self.asleep: set[str] = set()
        self._host: list[tuple[Tensor, torch.device]] = []
        self._dropped = False

    def sleep(self, level: int) -> None:
        """See :meth:`dovetail.engine.step.core.EngineCore.sleep`."""
        check_level(level)
        if self.asleep:
            return
        self.runner.clear_graphs()
        self.runner.free_cache()
        if level == 1:
            self._host = list(_move_to_host(self.runner.model))
        else:
            self.runner.drop_model()
            self._dropped = True
        self.asleep = {WEIGHTS, CACHE}
        self.runner.platform.release()

    def wake_up(self, tags: list[str] | None) -> bool:
        """See :meth:`dovetail.engine.step.core.EngineCore.wake_up`. Returns whether the model was built again."""
        built = False
        wanted = {WEIGHTS, CACHE} if tags is None else set(tags)
        if unknown := sorted(wanted - {WEIGHTS, CACHE}):
            raise RequestError(f"{', '.join(unknown)} cannot be woken up", f"known: {WEIGHTS}, {CACHE}", param="tags")
        if WEIGHTS in wanted & self.asleep:
            if self._dropped:
                self.runner.load_model()
                self._dropped, built = False, True
            with torch.inference_mode():
                for tensor, device in self._host:
                    tensor.data = tensor.data.to(device)
            self._host = []
            self.asleep.discard(WEIGHTS)
        # The cache belongs to the layers, which may have been rebuilt.
        if CACHE in wanted & self.asleep and WEIGHTS not in self.asleep:
            self.runner.allocate(self.num_blocks)
            self.asleep.discard(CACHE)
        return built


def check_level(level: int) -> None:
    """Check the level of sleep.

    Raises:
        RequestError: there is no such level.
    """
    if level not in (1, 2):
        raise RequestError(
            f"the level of sleep is {level!r}", "give 1 (weights to the host) or 2 (weights freed)", param="level"
        )


def _move_to_host(model: Any) -> Iterator[tuple[Tensor, torch.device]]:
    """Move every tensor of a model to the host, in place. Returns each with the device that it came from. Tensors on
    the host are skipped.
    """
    with torch.inference_mode():
        for tensor in _find_tensors(model, set()):
            device = tensor.device
            if device.type != "cpu":
                tensor.data = tensor.data.to("cpu")
                yield tensor, device


def _find_tensors(thing: Any, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor that an object refers to. Kernels may store theirs in attributes, lists or dataclasses."""
    if id(thing) in seen or isinstance(thing, ATOMIC_TYPES):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
        return
    inner: list[Any] = []
    if isinstance(thing, dict):
        inner += thing.values()
    elif isinstance(thing, (list, tuple, set, frozenset)):
        inner += thing
    if hasattr(thing, "__dict__") and not callable(getattr(thing, "__code__", None)):
        inner += vars(thing).values()
    inner += (getattr(thing, name, None) for name in getattr(type(thing), "__slots__", ()))
    for item in inner:
        yield from _find_tensors(item, seen)

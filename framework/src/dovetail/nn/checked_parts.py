"""Loaders, namings, formats and kernels of plugins, called such that their errors and wrong answers name the plugin.

The code that loads weights knows nothing of plugins' distributions: it gets these in place of what the Plan names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch

from dovetail.api.checkpoint import Checkpoint, LazyTensor, Naming
from dovetail.kernel.blame import blame, check_class, wrong_answer
from dovetail.kernel.discovery import import_part
from dovetail.kernel.plan import Part
from dovetail.nn.experts import ExpertsKernel, ExpertWeights
from dovetail.nn.stored import StoredWeight
from dovetail.nn.weights import Components, QuantFormat, WeightKernel, WeightName


def load_tensors(
    part: Part, checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], device: torch.device
) -> Iterator[LazyTensor]:
    """Yield what a loader yields, each tensor checked, and its ``read`` within the blame of the loader.

    Args:
        part: the loader.
        checkpoint, expected, device: as on :class:`dovetail.api.LoaderCard`.

    Raises:
        PluginError: the loader fails, or yields anything but lazy tensors.
    """
    load = import_part(part, part.target)
    doing = f"to open the weights of {checkpoint.path}"
    with blame(part, doing):
        found = iter(load(checkpoint, expected, device))
    listing = blame(part, f"to list the tensors of {checkpoint.path}")
    while True:
        with listing:
            lazy = next(found, None)
        if lazy is None:
            return
        if not (isinstance(lazy, LazyTensor) and isinstance(lazy.name, str) and _is_shape(lazy.shape)):
            raise wrong_answer(part, f"the weights of {checkpoint.path}", lazy, "a LazyTensor with a name and a shape")
        yield replace(lazy, read=_checked_read(part, lazy))


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and all(isinstance(size, int) for size in shape)


def _checked_read(part: Part, lazy: LazyTensor) -> Callable[[], torch.Tensor]:
    dtype = getattr(torch, lazy.type, None) if isinstance(lazy.type, str) else None
    plain = isinstance(dtype, torch.dtype)  # otherwise it is packed, as only its format knows

    def read() -> torch.Tensor:
        with blame(part, f"to read the tensor {lazy.name}"):
            value = lazy.read()
        if not isinstance(value, torch.Tensor):
            raise wrong_answer(part, f"the tensor {lazy.name}", value, f"a tensor {list(lazy.shape)}")
        if plain and (value.dtype != dtype or tuple(value.shape) != lazy.shape):
            raise wrong_answer(part, f"the tensor {lazy.name}", value, f"{dtype} {list(lazy.shape)}, as it was listed")
        return value

    return read


def checked_rename(part: Part, rename: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """A translation of tensors' names that is called within the blame of its plugin."""

    def checked(name: str) -> str | None:
        with blame(part, f"to rename the tensor {name}"):
            found = rename(name)
        if found is None or isinstance(found, str):
            return found
        raise wrong_answer(part, f"rename({name!r})", found, "a name or None")

    return checked


class CheckedNaming:
    """A model's naming, which translates a container's names.

    Args:
        part: the model that it belongs to.
    """

    def __init__(self, part: Part, naming: Naming) -> None:
        self.part = part
        self.naming = naming
        self.rename = checked_rename(part, lambda name: naming.rename(name))

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        with blame(self.part, f"to translate the metadata of {architecture}"):
            return self.naming.config(architecture, metadata)

    def row_order(self, name: str, config: Mapping[str, Any]) -> Any | None:
        """
        Raises:
            PluginError: it fails.
        """
        with blame(self.part, f"to say the order of the rows of {name}"):
            return self.naming.row_order(name, config)


class CheckedClasses:
    """Subclasses of the formats and kernels of plugins, one for each, that blame their plugin. What a kernel computes
    in a step is called as it is.
    """

    def __init__(self) -> None:
        self._made: dict[str, type] = {}

    def format(self, part: Part) -> type[QuantFormat]:
        """
        Raises:
            PluginError: its class cannot be imported, or is no format.
        """
        return self._make(part, (QuantFormat,), _CheckedFormat)

    def kernel(self, part: Part) -> type[WeightKernel | ExpertsKernel]:
        """
        Raises:
            PluginError: its class cannot be imported, or is no kernel.
        """
        return self._make(part, (WeightKernel, ExpertsKernel), _CheckedKernel)

    def _make(self, part: Part, bases: tuple[type, ...], checks: type) -> Any:
        found = import_part(part, part.target)
        check_class(part, part.target, found, *bases)
        if part.target not in self._made:
            attributes = {"part": part, "__module__": found.__module__, "__doc__": found.__doc__}
            self._made[part.target] = type(found)(found.__name__, (checks, found), attributes)
        return self._made[part.target]


class _CheckedFormat:
    part: Part

    def __init__(self, *arguments: Any) -> None:
        with blame(self.part, "to read the quantization_config"):
            super().__init__(*arguments)

    def components(self, weight: WeightName) -> Components | None:
        with blame(self.part, f"to name the tensors of {weight.name}"):
            found: Any = super().components(weight)  # type: ignore[misc]  # of the format
        if not (found is None or isinstance(found, Components)):
            raise wrong_answer(self.part, f"components() of {weight.name}", found, "Components or None")
        return found

    def load(self, weight: WeightName, tensors: Mapping[str, LazyTensor], *arguments: Any) -> StoredWeight:
        names = ", ".join(lazy.name for lazy in tensors.values())
        with blame(self.part, f"to load {names}"):
            found: Any = super().load(weight, tensors, *arguments)  # type: ignore[misc]
        if not isinstance(found, StoredWeight):
            raise wrong_answer(self.part, f"load() of {names}", found, "a StoredWeight")
        return found

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        names = ", ".join(lazy.name for lazy in tensors.values())
        with blame(self.part, f"to tell the shape of {names}"):
            found: Any = super().shape(weight, tensors)  # type: ignore[misc]
        if not _is_shape(found):
            raise wrong_answer(self.part, f"shape() of {names}", found, "a tuple of numbers")
        return cast("tuple[int, ...]", found)


class _CheckedKernel:
    part: Part

    @classmethod
    def unsupported_reason(cls, weight: StoredWeight | ExpertWeights, *arguments: Any) -> str | None:
        with blame(cls.part, f"to look at {_describe(weight)}"):
            found: Any = super().unsupported_reason(weight, *arguments)  # type: ignore[misc]
        if found is None or isinstance(found, str):
            return found
        raise wrong_answer(cls.part, "unsupported_reason()", found, "a text or None")

    def __init__(self, weight: StoredWeight | ExpertWeights, *arguments: Any) -> None:
        with blame(self.part, f"to take {_describe(weight)}"):
            super().__init__(weight, *arguments)  # type: ignore[call-arg]

    def process_after_loading(self) -> None:
        with blame(self.part, "to prepare a weight"):
            super().process_after_loading()  # type: ignore[misc]


def _describe(weight: StoredWeight | ExpertWeights) -> str:
    if isinstance(weight, StoredWeight):
        return f"a weight of type {weight.type} and shape {list(weight.shape)}"
    return f"the weights of {len(weight.down)} experts"

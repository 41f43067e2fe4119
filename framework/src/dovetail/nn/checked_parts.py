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
from dovetail.nn.weights import QuantFormat, StoredWeight, WeightKernel


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


class CheckedNaming:
    """A model's naming, which translates a container's names.

    Args:
        part: the model that it belongs to.
    """

    def __init__(self, part: Part, naming: Naming) -> None:
        self.part = part
        self.naming = naming

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        with blame(self.part, f"to translate the metadata of {architecture}"):
            return self.naming.config(architecture, metadata)

    def rename(self, name: str) -> str | None:
        """
        Raises:
            PluginError: it fails, or returns something else.
        """
        with blame(self.part, f"to rename the tensor {name}"):
            found = self.naming.rename(name)
        if found is None or isinstance(found, str):
            return found
        raise wrong_answer(self.part, f"rename({name!r})", found, "a name or None")

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
        return self._make(part, QuantFormat, _CheckedFormat)

    def kernel(self, part: Part) -> type[WeightKernel]:
        """
        Raises:
            PluginError: its class cannot be imported, or is no kernel.
        """
        return self._make(part, WeightKernel, _CheckedKernel)

    def _make(self, part: Part, base: type, checks: type) -> Any:
        found = import_part(part, part.target)
        check_class(part, part.target, found, base)
        if part.target not in self._made:
            attributes = {"part": part, "__module__": found.__module__, "__doc__": found.__doc__}
            self._made[part.target] = type(found)(found.__name__, (checks, found), attributes)
        return self._made[part.target]


class _CheckedFormat:
    part: Part

    def __init__(self, *arguments: Any) -> None:
        with blame(self.part, "to read the quantization_config"):
            super().__init__(*arguments)

    def load(self, tensors: Mapping[str, LazyTensor], *arguments: Any) -> StoredWeight:
        names = ", ".join(lazy.name for lazy in tensors.values())
        with blame(self.part, f"to load {names}"):
            found: Any = super().load(tensors, *arguments)  # type: ignore[misc]  # of the format
        if not isinstance(found, StoredWeight):
            raise wrong_answer(self.part, f"load() of {names}", found, "a StoredWeight")
        return found

    def shape(self, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        names = ", ".join(lazy.name for lazy in tensors.values())
        with blame(self.part, f"to tell the shape of {names}"):
            found: Any = super().shape(tensors)  # type: ignore[misc]
        if not _is_shape(found):
            raise wrong_answer(self.part, f"shape() of {names}", found, "a tuple of numbers")
        return cast("tuple[int, ...]", found)


class _CheckedKernel:
    part: Part

    @classmethod
    def unsupported_reason(cls, weight: StoredWeight, kind: Any) -> str | None:
        with blame(cls.part, f"to look at a weight of type {weight.type} and shape {list(weight.shape)}"):
            found: Any = super().unsupported_reason(weight, kind)  # type: ignore[misc]
        if found is None or isinstance(found, str):
            return found
        raise wrong_answer(cls.part, "unsupported_reason()", found, "a text or None")

    def __init__(self, weight: StoredWeight, kind: Any, *arguments: Any) -> None:
        with blame(
            self.part, f"to take a weight of type {weight.type} and shape {list(weight.shape)} of a {kind} layer"
        ):
            super().__init__(weight, kind, *arguments)  # type: ignore[call-arg]

    def process_after_loading(self) -> None:
        with blame(self.part, "to prepare a weight"):
            super().process_after_loading()  # type: ignore[misc]

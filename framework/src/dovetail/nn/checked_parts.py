"""Loaders, namings, formats with their weights, and kernels of plugins, called such that their errors and wrong answers name the plugin.

The code that loads weights knows nothing of plugins' distributions: it gets these in place of what the Plan names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache, partial
from typing import Any, cast

import numpy as np
import torch

from dovetail.api.checkpoint import Checkpoint, LazyTensor, Naming
from dovetail.api.errors import CheckpointError, PluginError
from dovetail.api.text import join_names, one_line, quote_foreign
from dovetail.kernel.blame import Blame, blame, check_class, way_out, wrong_answer
from dovetail.kernel.discovery import import_part
from dovetail.kernel.plan_parts import Part
from dovetail.nn.experts import ExpertsKernel, ExpertWeights
from dovetail.nn.packings import PACKINGS
from dovetail.nn.placing import Suspects
from dovetail.nn.stored import Field, StoredWeight
from dovetail.nn.weights import Components, QuantFormat, WeightKernel, WeightName

_END = object()


def load_tensors(
    part: Part, checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], device: torch.device
) -> Iterator[LazyTensor]:
    """Yield what a loader yields, each tensor checked, and its ``read`` within the blame of the loader.

    Args:
        part: the loader.
        checkpoint, expected, device: as on :class:`dovetail.api.LoaderCard`.

    Raises:
        PluginError: the loader fails, yields anything but lazy tensors, or others than its ``inspect`` counted: a name
            twice, a type that was not there, or of a type more or fewer.
    """
    load = import_part(part, part.target)
    path, counted = checkpoint.path, checkpoint.tensor_types
    with blame(part, f"to open the weights of {path}"):
        found = iter(load(checkpoint, expected, device))
    listing = blame(part, f"to list the tensors of {path}")
    seen: set[str] = set()
    given: Counter[str] = Counter()
    while True:
        with listing:
            lazy: Any = next(found, _END)
        if lazy is _END:
            break
        if not (isinstance(lazy, LazyTensor) and isinstance(lazy.name, str) and _is_shape(lazy.shape)):
            raise wrong_answer(part, f"the weights of {path}", lazy, "a LazyTensor with a name and a shape")
        if lazy.name in seen:
            raise PluginError(f"the {part} gave the tensor {one_line(lazy.name)} of {path} twice", way_out(part))
        if not isinstance(lazy.type, str) or (counted and lazy.type not in counted):
            types = join_names(list(counted)) or "a name"
            raise PluginError(
                f"the {part} gave the tensor {one_line(lazy.name)} of {path} the type {quote_foreign(lazy.type, 60)}, and "
                f"its inspect() counted {types}",
                way_out(part),
            )
        seen.add(lazy.name)
        given[lazy.type] += 1
        yield LazyTensor(lazy.name, lazy.shape, lazy.type, _checked_read(part, lazy))
    # A loader without files has as many as the model expects.
    for type_, count in counted.items() if checkpoint.files else ():
        if given[type_] != count:
            absent = [name for name in expected if name not in seen]
            known = len(absent) == sum(counted.values()) - len(seen)  # otherwise some are stored in another form
            without = f", without {join_names(absent)}" if known else ""
            raise PluginError(
                f"the {part} gave {given[type_]} tensors of type {type_} of {path}{without}, and its inspect() counted "
                f"{count}; the files must not change meanwhile",
                way_out(part),
            )


def find_suspects(model: Part, loader: Part, checkpoint: Checkpoint) -> Suspects:
    """Who may be to blame if tensors are not those that a model expects: the files, their loader, or the model itself.
    Nobody else can tell.
    """
    out = f" (--plugins=-{loader.distribution} leaves it out)"
    change = f"update {model.distribution}" if model.distribution else "correct the model"
    return Suspects(
        f"the {model}",
        f"{checkpoint.path} lacks them, the {loader} did not give them under their names{out}, or the model names them "
        "wrongly",
        f"{change}, whose layers name the tensors",
    )


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and all(isinstance(size, int) and size >= 0 for size in shape)


def _checked_read(part: Part, lazy: LazyTensor) -> Callable[[], torch.Tensor]:
    dtype = getattr(torch, lazy.type, None)
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

    def row_order(self, name: str, config: Mapping[str, Any]) -> np.ndarray | None:
        """
        Raises:
            PluginError: it fails, or answers with no permutation.
        """
        with blame(self.part, f"to say the order of the rows of {name}"):
            found: Any = self.naming.row_order(name, config)
            order = np.asarray([] if found is None else found)
        # An empty one is of floats.
        if order.size and not (order.dtype.kind == "i" and np.array_equal(np.sort(order), np.arange(len(order)))):
            raise wrong_answer(self.part, f"row_order() of {name}", found, "each row's number once, or None")
        return None if found is None else order


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


def check_components(part: Part, weight: WeightName, found: Any) -> Components | None:
    """What a format's ``components`` gave, if it is as agreed.

    Raises:
        PluginError: it is not. So for the others.
    """
    if found is None or isinstance(found, Components):
        return found
    raise wrong_answer(part, f"components() of {weight.name}", found, "Components or None")


def check_shape(part: Part, names: str, found: Any) -> tuple[int, ...]:
    """What a format's ``shape`` gave for tensors of these names."""
    if _is_shape(found):
        return cast("tuple[int, ...]", found)
    raise wrong_answer(part, f"shape() of {names}", found, "a tuple of numbers")


def check_loaded(part: Part, names: str, found: Any) -> StoredWeight:
    """What a format's ``load`` gave for tensors of these names."""
    if not isinstance(found, StoredWeight):
        raise wrong_answer(part, f"load() of {names}", found, "a StoredWeight")
    if not (_is_shape(found.shape) and len(found.shape) == 2):
        raise wrong_answer(part, f"load() of {names}", found, "a weight whose shape is two numbers")
    return found


@contextmanager
def _named_in_refusals(
    part: Part, weight: WeightName, tensors: Mapping[str, LazyTensor]
) -> Iterator[Mapping[str, LazyTensor]]:
    """Give a format its tensors, and name it in what it raises because they contradict each other or its configuration,
    which it may have wrong. What reading raises is the file's, or its loader's, and passes.
    """
    of_files: list[CheckpointError] = []

    def read(lazy: LazyTensor) -> torch.Tensor:
        try:
            return lazy.read()
        except CheckpointError as error:
            of_files.append(error)
            raise

    try:
        yield {suffix: replace(lazy, read=partial(read, lazy)) for suffix, lazy in tensors.items()}
    except CheckpointError as error:
        if any(error is found for found in of_files):
            raise
        raise CheckpointError(f"the {part} cannot read {weight.name}: {error.problem}", error.hint) from error


class _CheckedFormat:
    part: Part

    def __init__(self, *arguments: Any) -> None:
        with blame(self.part, "to read the quantization_config"):
            super().__init__(*arguments)

    def components(self, weight: WeightName) -> Components | None:
        with blame(self.part, f"to name the tensors of {weight.name}"):
            found: Any = super().components(weight)  # type: ignore[misc]  # of the format
        return check_components(self.part, weight, found)

    def load(self, weight: WeightName, tensors: Mapping[str, LazyTensor], *arguments: Any) -> StoredWeight:
        names = ", ".join(lazy.name for lazy in tensors.values())
        with blame(self.part, f"to load {names}"), _named_in_refusals(self.part, weight, tensors) as own:
            found: Any = super().load(weight, own, *arguments)  # type: ignore[misc]
        return _checked_weight(self.part, check_loaded(self.part, names, found))

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        names = ", ".join(lazy.name for lazy in tensors.values())
        with blame(self.part, f"to tell the shape of {names}"), _named_in_refusals(self.part, weight, tensors) as own:
            found: Any = super().shape(weight, own)  # type: ignore[misc]
        return check_shape(self.part, names, found)


def _checked_weight(part: Part, weight: StoredWeight) -> StoredWeight:
    """A weight that blames its format. It is of a subclass, so what is cut from it or joined with it is as well."""
    if isinstance(weight, _CheckedWeight):
        return weight
    with blame(part, f"to copy {_describe(weight)}"):
        made: Any = _weight_class(part, type(weight))
        return cast("StoredWeight", made(**{f.name: getattr(weight, f.name) for f in fields(weight)}))


@cache
def _weight_class(part: Part, found: type[StoredWeight]) -> type[StoredWeight]:
    attributes = {"_part": part, "__module__": found.__module__, "__doc__": found.__doc__}
    metaclass: Any = type(found)
    return cast("type[StoredWeight]", metaclass(found.__name__, (_CheckedWeight, found), attributes))


class _CheckedWeight:
    """What is called of a weight by the framework and by kernels, which may come from others."""

    _part: Part

    def _blame(self, doing: str) -> Blame:
        return blame(self._part, f"{doing} {_describe(cast('StoredWeight', self))}")

    def fields(self) -> Mapping[str, Field]:
        with self._blame("to name the tensors of"):
            found: Any = super().fields()  # type: ignore[misc]  # of the weight, as below
        if not (isinstance(found, Mapping) and all(isinstance(value, Field) for value in found.values())):
            raise wrong_answer(self._part, "fields()", found, "a Field for each name")
        return found

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        with self._blame("to dequantize"):
            found: Any = super().dequantize(dtype)  # type: ignore[misc]
        shape = cast("StoredWeight", self).shape
        if not (isinstance(found, torch.Tensor) and found.dtype == dtype and tuple(found.shape) == tuple(shape)):
            raise wrong_answer(self._part, "dequantize()", found, f"a tensor of {dtype} {list(shape)}")
        return found

    def pack(self, packing: str) -> Any | None:
        with self._blame(f"to make the packing {packing} of"):
            found: Any = super().pack(packing)  # type: ignore[misc]
        wanted = PACKINGS.get(packing)
        if wanted is not None and not (found is None or isinstance(found, wanted)):
            raise wrong_answer(self._part, f"pack({packing!r})", found, f"{wanted.__name__} or None")
        return found

    def take(self, ids: torch.Tensor, dtype: torch.dtype) -> Any:
        with self._blame("to take rows of"):
            return super().take(ids, dtype)  # type: ignore[misc]

    def narrow(self, dim: int, start: int, stop: int) -> Any:
        with self._blame("to cut"):
            return super().narrow(dim, start, stop)  # type: ignore[misc]

    def reorder(self, order: torch.Tensor, dim: int = 0) -> Any:
        with self._blame("to reorder"):
            return super().reorder(order, dim)  # type: ignore[misc]

    def to(self, device: torch.device) -> Any:
        with self._blame("to move"):
            return super().to(device)  # type: ignore[misc]

    def compact(self) -> Any:
        with self._blame("to copy"):
            return super().compact()  # type: ignore[misc]

    @classmethod
    def join(cls, parts: Sequence[StoredWeight]) -> StoredWeight | None:
        with blame(cls._part, f"to join {_describe(parts[0])} with others"):
            found: StoredWeight | None = super().join(parts)  # type: ignore[misc]
        return None if found is None else _checked_weight(cls._part, found)


class _CheckedKernel:
    part: Part

    @classmethod
    def unsupported_reason(cls, weight: StoredWeight | ExpertWeights, *arguments: Any) -> str | None:
        with blame(cls.part, f"to look at {_describe(weight)}"):
            found: Any = super().unsupported_reason(weight, *arguments)  # type: ignore[misc]
        if found is None or (isinstance(found, str) and found.strip()):
            return found
        raise wrong_answer(cls.part, "unsupported_reason()", found, "a text or None")

    def __init__(self, weight: StoredWeight | ExpertWeights, *arguments: Any) -> None:
        with blame(self.part, f"to take {_describe(weight)}"):
            super().__init__(weight, *arguments)  # type: ignore[call-arg]

    def process_after_loading(self) -> None:
        with blame(self.part, "to prepare a weight"):
            super().process_after_loading()  # type: ignore[misc]

    @property
    def nbytes(self) -> int:
        with blame(self.part, "to tell its memory (nbytes)"):
            found: Any = super().nbytes  # type: ignore[misc]
        if not isinstance(found, int) or found < 0:
            raise wrong_answer(self.part, "nbytes", found, "a number of bytes")
        return found


def _describe(weight: StoredWeight | ExpertWeights) -> str:
    if isinstance(weight, StoredWeight):
        return f"a weight of type {weight.type} and shape {list(weight.shape)}"
    return f"the weights of {len(weight.down)} experts"

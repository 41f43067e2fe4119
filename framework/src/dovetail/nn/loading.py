"""Reads a checkpoint's tensors into the layers of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dovetail.api.cards import LayerKind
from dovetail.api.checkpoint import LazyTensor, Naming
from dovetail.api.errors import CheckpointError, ResolutionError
from dovetail.api.text import join_names
from dovetail.nn.context import Context
from dovetail.nn.experts import Experts, ExpertsKernel
from dovetail.nn.layers import Embedding, Head, WeightLayer
from dovetail.nn.leftovers import Leftovers, without_wrappers
from dovetail.nn.stored import StoredWeight
from dovetail.nn.weights import Components, QuantFormat, WeightKernel, WeightName

Progress = Callable[[int, int], None]
"""Called with (weights loaded, weights in all), in elements, first with none loaded."""
FLOATS = ("float64", "float32", "bfloat16", "float16")
"""Stored types of full-precision checkpoints."""
Tensors = dict[str, LazyTensor]
"""Component → its tensor."""


@dataclass(frozen=True)
class WeightChoice:
    """What the Plan names for weights of one stored type in one kind of layer.

    Attributes:
        stored_type: as in :attr:`dovetail.api.LazyTensor.type`.
        format: its class.
        kernels: (name, class), best first.
        config: for the format, as in :class:`dovetail.nn.QuantFormat`.
    """

    kind: LayerKind
    stored_type: str
    format: type[QuantFormat]
    kernels: Sequence[tuple[str, type[WeightKernel] | type[ExpertsKernel]]]
    config: Any = field(default_factory=dict)


@dataclass(frozen=True)
class _Source:
    """Where a part of a layer is stored: a weight of its own, or some of the rows of another.

    Attributes:
        name: of the stored weight.
        expert: index in a stack; None for a matrix.
        rows: first, stop and step; None for all.
    """

    name: str
    expert: int | None = None
    rows: tuple[int, int, int] | None = None


class WeightReader:
    """Reads a checkpoint's tensors into the layers of a model.

    Args:
        ctx: that the model was built with.
        choices: of the Plan, best format first.
        config: the model's configuration as a dict (what a naming's row orders depend on).
        naming: translates tensor names, if the container has its own.
        rename: the model's own translation of names; see :meth:`dovetail.nn.PoolingModel.rename`.
    """

    def __init__(
        self,
        ctx: Context,
        choices: Iterable[WeightChoice],
        config: Mapping[str, Any],
        naming: Naming | None = None,
        rename: Callable[[str], str | None] | None = None,
    ) -> None:
        self.ctx = ctx
        self.choices = list(choices)
        self.config = config
        self.naming = naming
        self.rename = rename
        self.formats: dict[type[QuantFormat], QuantFormat] = {}
        for choice in self.choices:
            if choice.format not in self.formats:
                self.formats[choice.format] = choice.format(choice.config)
        self.weights: dict[str, Tensors] = {}
        self.plain: dict[str, LazyTensor] = {}
        self.leftovers = Leftovers()
        self.used: dict[str, int] = {}
        """Kernel name → number of weights that it serves, for the log."""
        self._slices = dict(self._find_slices())
        self._kinds: dict[str, LayerKind] = {name: layer.kind for name, layer in ctx.layers.items()}
        for name, stored in ctx.together.items():
            self._kinds[name] = ctx.layers[stored.groups[0][0]].kind
        self._last: tuple[tuple[str, int | None], StoredWeight] | None = None

    def expected(self) -> dict[str, tuple[int, ...]]:
        """The required tensors by Hugging Face name, with their shapes. For a weight it is the shape ``(N, K)``
        without quantization.
        """
        ctx = self.ctx
        shapes: dict[str, tuple[int, ...]] = {}
        for name, layer in ctx.layers.items():
            source = self._slices.get(name)
            if source is not None and ctx.together[source.name].required:
                shapes[self._tensor_name(source.name)] = self._stored_shape(source.name)
            elif not _is_tied(layer):
                shapes[self._tensor_name(name)] = self._stored_shape(name)
        shapes |= {name: (slot.layer.parts[slot.part][0],) for name, slot in ctx.biases.items() if slot.required}
        return shapes | {name: slot.shape for name, slot in ctx.vectors.items() if slot.required}

    def load(self, tensors: Iterable[LazyTensor], progress: Progress | None = None) -> None:
        """Load all tensors.

        Raises:
            CheckpointError: tensors are missing, unexpected or misshapen; the error names all of them.
        """
        self._sort(tensors)
        sizes = self._sizes()
        layers, total, done = list(sizes), sum(sizes.values()), 0
        if progress:
            progress(0, total)
        for name, slot in self.ctx.vectors.items():
            if name in self.plain:
                slot.assign(self._plain(name, slot.dtype))
        for layer in layers:
            self._finish(layer)
            done += sizes[layer]
            if progress:
                progress(done, total)
        for layer in layers:
            if isinstance(layer, Embedding):
                layer.weight = None  # it was kept for a head that is tied to it
        # What is still in its file must not keep the file mapped.
        self.weights.clear()
        self.plain.clear()
        self._last = None

    # Names

    def _find_slices(self) -> Iterator[tuple[str, _Source]]:
        """Part → where it is if its weights are stored together."""
        for name, stored in self.ctx.together.items():
            for expert, group in enumerate(stored.groups):
                start = 0
                rows = [self.ctx.layers[part].parts[part][0] for part in group]
                for index, (part, count) in enumerate(zip(group, rows, strict=True)):
                    cut = (index, sum(rows), len(group)) if stored.alternating else (start, start + count, 1)
                    yield part, _Source(name, expert if stored.stacked else None, cut if len(group) > 1 else None)
                    start += count

    def _stored_shape(self, name: str) -> tuple[int, ...]:
        """The logical shape of a stored weight: ``(N, K)``, or ``(E, N, K)`` of a stack; the last two the other way
        round for one that full-precision checkpoints transpose.
        """
        stored = self.ctx.together.get(name)
        if stored is None:
            shape: tuple[int, ...] = self.ctx.layers[name].parts[name]
        else:
            parts = [self.ctx.layers[part].parts[part] for part in stored.groups[0]]
            shape = (sum(rows for rows, _ in parts), parts[0][1])
            if stored.stacked:
                shape = (len(stored.groups), *shape)
        return (*shape[:-2], shape[-1], shape[-2]) if name in self.ctx.transposed else shape

    def _tensor_name(self, name: str) -> str:
        """The tensor that holds a weight in full precision. Stacks of experts have no suffix."""
        stored = self.ctx.together.get(name)
        return name if stored is not None and stored.stacked else f"{name}.weight"

    def _sort(self, tensors: Iterable[LazyTensor]) -> None:
        ctx, unexpected = self.ctx, []
        suffixes = self._suffixes()
        for lazy in tensors:
            name = self._translate(lazy.name)
            if name is None or self._take(name, lazy, suffixes) or self._take(without_wrappers(name), lazy, suffixes):
                continue
            if not self.leftovers.take(name, lazy, ctx.ignored):
                unexpected.append(lazy.name)
        self.leftovers.log()
        missing = [n for n, slot in ctx.vectors.items() if slot.required and n not in self.plain]
        missing += [n for n, slot in ctx.biases.items() if slot.required and n not in self.plain]
        missing += self._missing_weights()
        unexpected += self._unused_components()
        faults = []
        if missing:
            faults.append(f"missing: {join_names(missing)}")
        if unexpected:
            faults.append(f"unexpected: {join_names(unexpected)}")
        if not missing and (wrong := self._find_wrong_shapes()):
            faults.append(f"of the wrong shape: {join_names(wrong)}")
        if faults:
            raise CheckpointError(
                f"the checkpoint does not hold the tensors that the model expects ({'; '.join(faults)})",
                "the architecture or its configuration does not match these files, or a file is missing: compare config.json, or force "
                "another architecture with --hf-overrides",
            )

    def _translate(self, name: str) -> str | None:
        if self.naming is not None:
            return self.naming.rename(name)
        return name if self.rename is None else self.rename(name)

    def _suffixes(self) -> tuple[str, ...]:
        """Every component that a format may ask for, longest first."""
        found = {suffix for name in self._kinds for suffix in self._all_components(name)}
        return tuple(sorted(found, key=len, reverse=True))

    def _all_components(self, name: str) -> Iterator[str]:
        for quant_format in self.formats.values():
            if components := quant_format.components(WeightName(name, self._kinds[name])):
                yield from components.required
                yield from components.optional

    def _take(self, name: str, lazy: LazyTensor, suffixes: Sequence[str]) -> bool:
        """Take a tensor if the model expects this name and does not have it yet."""
        if name in self.ctx.vectors or name in self.ctx.biases:
            return self.plain.setdefault(name, lazy) is lazy
        for suffix in suffixes:
            owner = name[: len(name) - len(suffix)]
            if name.endswith(suffix) and owner in self._kinds:
                return self.weights.setdefault(owner, {}).setdefault(suffix, lazy) is lazy
        if name in self._kinds:  # stacks of experts are stored without a suffix
            return self.weights.setdefault(name, {}).setdefault(".weight", lazy) is lazy
        return False

    def _source(self, part: str) -> _Source:
        """Where a part is stored."""
        return self._slices[part] if part not in self.weights and part in self._slices else _Source(part)

    def _missing_weights(self) -> list[str]:
        missing: dict[str, None] = {}
        for part, layer in self.ctx.layers.items():
            source = self._source(part)
            if source.name in self.weights:
                if (lacking := self._lacking_component(source.name)) is not None:
                    missing[source.name + lacking] = None
            elif not _is_tied(layer):
                only = part in self._slices and self.ctx.together[self._slices[part].name].required
                missing[self._tensor_name(self._slices[part].name if only else part)] = None
        return list(missing)

    def _lacking_component(self, name: str) -> str | None:
        """A component without which no format can read what is there of a weight; None if one can, or if nothing is
        missing and the type fits none, which is told when the weight is loaded.
        """
        tensors, nearest = self.weights[name], None
        for quant_format in self.formats.values():
            components = quant_format.components(WeightName(name, self._kinds[name]))
            if components is None:
                continue
            lacking = [suffix for suffix in components.required if suffix not in tensors]
            if not lacking:
                return None
            if len(lacking) < len(components.required) and (nearest is None or len(lacking) < len(nearest)):
                nearest = lacking
        return nearest[0] if nearest else ".weight"

    def _unused_components(self) -> list[str]:
        """Tensors of a weight that the format which reads it does not know."""
        unused = []
        for name, tensors in self.weights.items():
            found = self._find_choice(name, tensors)
            if found is not None:
                known = (*found[1].required, *found[1].optional)
                unused += [lazy.name for suffix, lazy in tensors.items() if suffix not in known]
        return unused

    # Formats

    def _find_choice(self, name: str, tensors: Tensors) -> tuple[WeightChoice, Components] | None:
        """The first format that can read a weight, and the weight's components."""
        kind = self._kinds[name]
        for choice in self.choices:
            if choice.kind != kind:
                continue
            components = self.formats[choice.format].components(WeightName(name, kind))
            if components is None or any(suffix not in tensors for suffix in components.required):
                continue
            if tensors[components.required[0]].type == choice.stored_type:
                return choice, components
        return None

    def _choice(self, name: str, tensors: Tensors) -> tuple[WeightChoice, Components]:
        if (found := self._find_choice(name, tensors)) is not None:
            return found
        names = ", ".join(f"{t.name} ({t.type})" for t in tensors.values())
        raise ResolutionError(
            f"wanted a format for the {self._kinds[name]} layer made of {names}, found none in the plan",
            "see dovetail plan",
        )

    def _matrix(self, name: str, expert: int | None = None) -> tuple[WeightChoice, Tensors]:
        """The tensors of one matrix, as its format expects them, and the choice for it."""
        found = self.weights[name]
        choice, components = self._choice(name, found)
        tensors = {s: found[s] for s in (*components.required, *components.optional) if s in found}
        if expert is not None:
            tensors = {suffix: _expert(lazy, expert) for suffix, lazy in tensors.items()}
        if self.naming is None and name in self.ctx.transposed:
            tensors = {suffix: _transposed(lazy) for suffix, lazy in tensors.items()}
        return choice, tensors

    def _find_wrong_shapes(self) -> list[str]:
        ctx, wrong = self.ctx, []

        def check(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
            if found != wanted:
                wrong.append(f"{name} is {list(found)}, wanted {list(wanted)}")

        for name, lazy in self.plain.items():
            if name in ctx.vectors:
                check(lazy.name, lazy.shape, ctx.vectors[name].shape)
            else:
                slot = ctx.biases[name]
                check(lazy.name, lazy.shape, (slot.layer.parts[slot.part][0],))
        for name in self.weights:
            shape = self._stored_shape(name)
            if name in ctx.transposed:
                shape = (*shape[:-2], shape[-1], shape[-2])
            stack = shape[:-2]
            lazies = self.weights[name].values()
            first = next(iter(lazies))
            if stack and any(lazy.shape[:1] != stack for lazy in lazies):
                check(first.name, first.shape, shape)
                continue
            choice, tensors = self._matrix(name, 0 if stack else None)
            weight = WeightName(name, self._kinds[name])
            check(first.name, (*stack, *self.formats[choice.format].shape(weight, tensors)), shape)
        return wrong

    # Weights

    def _sizes(self) -> dict[WeightLayer, int]:
        """Layer → number of elements of its weights; 0 for a tied head."""
        sizes = dict.fromkeys(self.ctx.layers.values(), 0)
        for name, layer in self.ctx.layers.items():
            if self._source(name).name in self.weights:
                sizes[layer] += math.prod(layer.parts[name])
        return sizes

    def _row_order(self, name: str, stored: str | None = None) -> Tensor | None:
        if self.naming is None:
            return self.ctx.row_orders.get(stored or "")
        order = self.naming.row_order(name, self.config)
        return None if order is None else torch.from_numpy(np.asarray(order, dtype=np.int64))

    def _plain(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        lazy = self.plain[name]
        value = lazy.read()
        if not value.is_floating_point():
            raise CheckpointError(
                f"tensor {lazy.name} is of type {lazy.type}, wanted a floating-point one", "check the file"
            )
        if (order := self._row_order(name, name.removesuffix(".bias"))) is not None:
            value = value[order]
        # A copy, so that small tensors do not hold a mapped file open.
        return value.to(device=self.ctx.device, dtype=dtype or self.ctx.dtype, copy=True)

    def _whole(self, name: str, expert: int | None) -> StoredWeight:
        """A stored weight. The last one is kept for the next part that is stored in it."""
        if self._last is None or self._last[0] != (name, expert):
            choice, tensors = self._matrix(name, expert)
            weight = WeightName(name, self._kinds[name])
            # What is only read for a part of it stays in its file, or on the host, until it is cut.
            device = self.ctx.device if self.ctx.parallel.size == 1 else torch.device("cpu")
            loaded = self.formats[choice.format].load(weight, tensors, device, self.ctx.dtype)
            order = self._row_order(self._tensor_name(name), name)
            self._last = (name, expert), loaded if order is None else loaded.reorder(order)
        return self._last[1]

    def _stored(self, layer: WeightLayer, part: str) -> StoredWeight:
        """This rank's part of a weight."""
        source = self._source(part)
        weight = self._whole(source.name, source.expert)
        if source.rows is not None:
            start, stop, step = source.rows
            if step > 1:
                weight = weight.reorder(torch.arange(start, stop, step))
            else:
                weight = weight.narrow(0, start, stop).compact()
        if self.ctx.parallel.size == 1:
            return weight
        try:
            return layer.cut_weight(part, weight).to(self.ctx.device)
        except CheckpointError as error:
            raise CheckpointError(f"{source.name}: {error.problem}", error.hint) from error

    def _finish(self, layer: WeightLayer) -> None:
        if isinstance(layer, Head) and layer.tied is not None and not set(layer.parts) & set(self.weights):
            # The embedding comes first in every model, so its table is there, cut as the head is or whole.
            assert layer.tied.weight is not None
            ((part, _),) = layer.parts.items()
            table = layer.tied.weight
            weights = {part: table if layer.tied.cut is not None else layer.cut_weight(part, table)}
            names = list(layer.tied.parts)
        else:
            weights = {part: self._stored(layer, part) for part in layer.local_parts()}
            names = [self._source(part).name for part in weights]
        self._last = None
        choices = {weight.type: name for weight, name in zip(weights.values(), names, strict=True)}
        if isinstance(layer, Experts):
            self._finish_experts(layer, weights, list(dict.fromkeys(names)))
            return

        def make(weight: StoredWeight, kind: LayerKind) -> WeightKernel:
            name = choices[weight.type]
            return self._kernel(weight, kind, self._kernels(kind, self._choice(name, self.weights[name])[0]))

        layer.finish(weights, make)
        layer.bias = self._bias(layer)

    def _bias(self, layer: WeightLayer) -> Tensor | None:
        """The concatenated biases of a layer's parts, zeros for a part without one; None if no part has one."""
        names = {part: f"{part}.bias" for part in layer.parts}
        if not any(name in self.ctx.biases and name in self.plain for name in names.values()):
            return None
        parts = []
        for part, name in names.items():
            rows = layer.parts[part][0]
            whole = (
                self._plain(name)
                if name in self.plain
                else torch.zeros(rows, device=self.ctx.device, dtype=self.ctx.dtype)
            )
            parts.append(layer.cut_bias(part, whole))
        return torch.cat(parts)

    # Kernels

    def _kernels(self, kind: LayerKind, like: WeightChoice) -> Sequence[tuple[str, type[Any]]]:
        """The kernels for a kind of layer, of weights that a format reads."""
        return next(
            (
                c.kernels
                for c in self.choices
                if (c.kind, c.stored_type, c.format) == (kind, like.stored_type, like.format)
            ),
            (),
        )

    def _kernel(
        self, weight: StoredWeight, kind: LayerKind, kernels: Sequence[tuple[str, type[WeightKernel]]]
    ) -> WeightKernel:
        reasons = []
        for name, kernel in kernels:
            if reason := kernel.unsupported_reason(weight, kind):
                reasons.append(f"{name}: {reason}")
                continue
            self.used[name] = self.used.get(name, 0) + 1
            made = kernel(weight, kind, self.ctx.device, self.ctx.dtype)
            made.ops = self.ctx.ops
            made.process_after_loading()
            return made
        raise ResolutionError(
            f"wanted a kernel for a {kind} layer of type {weight.type} and shape {list(weight.shape)}, found none ({'; '.join(reasons)})",
            "install a kernel plugin that covers it",
        )

    def _finish_experts(self, layer: Experts, weights: Mapping[str, StoredWeight], names: Sequence[str]) -> None:
        choices = [self._choice(name, self.weights[name])[0] for name in names]
        by_type = {choice.stored_type: choice for choice in choices}
        shared = [entry for entry in choices[0].kernels if all(entry in choice.kernels for choice in choices)]
        found, reasons = layer.collect(weights), []

        def make(weight: StoredWeight, kind: LayerKind) -> WeightKernel:
            return self._kernel(weight, kind, self._kernels(kind, by_type[weight.type]))

        for name, kernel in shared:
            assert issubclass(kernel, ExpertsKernel), f"{name} is for experts"
            if reason := kernel.unsupported_reason(found):
                reasons.append(f"{name}: {reason}")
                continue
            self.used[name] = self.used.get(name, 0) + 1
            layer.kernel = kernel(found, make, self.ctx.device, self.ctx.dtype)
            layer.kernel.ops = self.ctx.ops
            layer.kernel.process_after_loading()
            return
        raise ResolutionError(
            f"wanted a kernel for {len(layer.names)} experts of type {', '.join(by_type)}, found none ({'; '.join(reasons)})",
            "install a kernel plugin that covers them",
        )


def _expert(lazy: LazyTensor, index: int) -> LazyTensor:
    """One matrix of a stack."""

    def read(read_all: Callable[[], Tensor]) -> Tensor:
        return read_all()[index]

    return replace(lazy, shape=lazy.shape[1:], read=partial(read, lazy.read))


def _transposed(lazy: LazyTensor) -> LazyTensor:
    """A full-precision matrix ``[K, N]`` as ``[N, K]``; anything else as it is."""
    if lazy.type not in FLOATS or len(lazy.shape) != 2:
        return lazy
    return replace(lazy, shape=lazy.shape[::-1], read=lambda: lazy.read().t())


def _is_tied(layer: WeightLayer) -> bool:
    return isinstance(layer, Head) and layer.tied is not None

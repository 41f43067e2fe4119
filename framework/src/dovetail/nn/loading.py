"""Reads a checkpoint's tensors into the layers of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
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
from dovetail.nn.weights import Components, QuantFormat, WeightKernel, WeightName, read_tensor

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


@dataclass(frozen=True)
class _Fit:
    """The format that reads a weight.

    Attributes:
        tensors: by component, the required ones first.
        unknown: what the checkpoint has beside them under the weight's name.
    """

    choice: WeightChoice
    tensors: Tensors
    unknown: tuple[LazyTensor, ...]


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
        self._slices: dict[str, list[_Source]] = {}
        """Part → where it is, if its weights are stored together: one place for each form that checkpoints have."""
        for part, source in self._find_slices():
            self._slices.setdefault(part, []).append(source)
        self._shared_biases = dict(self._find_shared_biases())
        self._opened: dict[str, Tensor] = {}
        """Biases of the layer that is being loaded which are stored together, so that they are read once."""
        self._kinds: dict[str, LayerKind] = {name: layer.kind for name, layer in ctx.layers.items()}
        for name, stored in ctx.together.items():
            self._kinds[name] = ctx.layers[stored.groups[0][0]].kind
        self._last: tuple[tuple[str, int | None], StoredWeight] | None = None
        self._stack: tuple[str, Tensors] | None = None
        self._components: dict[str, tuple[Components | None, ...]] = {}
        """Weight → what each format expects of it. Formats are asked once, since a model may have 50,000 weights."""
        self._fits: dict[str, _Fit | None] = {}
        self._sources: dict[str, _Source] = {}

    def expected(self) -> dict[str, tuple[int, ...]]:
        """The required tensors by Hugging Face name, with their shapes. For a weight it is the shape ``(N, K)``
        without quantization.
        """
        ctx = self.ctx
        shapes: dict[str, tuple[int, ...]] = {}
        for name, layer in ctx.layers.items():
            if not _is_tied(layer):
                stored = self._usual_name(name)
                shapes[self._tensor_name(stored)] = self._stored_shape(stored)
        for slot in ctx.biases.values():
            if slot.required:
                stored = self._usual_name(slot.part)
                shapes[self._bias_name(stored)] = self._bias_shape(stored)
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
            self._opened.clear()
            done += sizes[layer]
            if progress:
                progress(done, total)
        for layer in layers:
            if isinstance(layer, Embedding):
                layer.weight = None  # it was kept for a head that is tied to it
        # What is still in its file must not keep the file mapped.
        for kept in (self.weights, self.plain, self._fits, self._components, self._sources):
            kept.clear()

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

    def _find_shared_biases(self) -> Iterator[tuple[str, str]]:
        """Name of a tensor with the biases of weights that are stored together → the name of those weights."""
        biased = {slot.part for slot in self.ctx.biases.values()}
        for name, stored in self.ctx.together.items():
            if biased.intersection(*stored.groups[:1]):
                yield f"{name}.bias", name
                if stored.stacked:
                    yield f"{name}_bias", name

    def _usual_name(self, part: str) -> str:
        """The name under which a part is stored: its own, unless checkpoints have no other form than a common one."""
        sources = self._slices.get(part, ())
        return next((source.name for source in sources if self.ctx.together[source.name].required), part)

    def _bias_name(self, name: str) -> str:
        """The tensor with the biases of a stored weight."""
        stored = self.ctx.together.get(name)
        return f"{name}_bias" if stored is not None and stored.stacked else f"{name}.bias"

    def _bias_shape(self, name: str) -> tuple[int, ...]:
        """``[N]``, or ``[E, N]`` of a stack."""
        stored = self.ctx.together.get(name)
        if stored is None:
            return (self.ctx.layers[name].parts[name][0],)
        rows = sum(self.ctx.layers[part].parts[part][0] for part in stored.groups[0])
        return (len(stored.groups), rows) if stored.stacked else (rows,)

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
        ctx = self.ctx
        suffixes = self._suffixes()
        unexpected = [lazy.name for lazy in tensors if not self._place(lazy, suffixes)]
        self.leftovers.log()
        missing = [n for n, slot in ctx.vectors.items() if slot.required and n not in self.plain]
        missing += self._missing_biases()
        missing += self._missing_weights()
        unexpected += self._unused_tensors()
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

    def _place(self, lazy: LazyTensor, suffixes: Sequence[str]) -> bool:
        """Whether a tensor is the model's, or may be left out."""
        found: str | None = None
        for stored in dict.fromkeys((lazy.name, without_wrappers(lazy.name))):
            found = self._translate(stored)
            if found is None or self._take(found, lazy, suffixes):
                return True
        assert found is not None
        return self.leftovers.take(found, lazy, self.ctx.ignored)

    def _translate(self, name: str) -> str | None:
        if self.naming is not None:
            return self.naming.rename(name)
        return name if self.rename is None else self.rename(name)

    def _suffixes(self) -> tuple[str, ...]:
        """Every component that a format may ask for, longest first."""
        found = {".weight"} | {
            suffix for name in self._kinds for c in self._layouts(name) if c for suffix in c.required + c.optional
        }
        return tuple(sorted(found, key=len, reverse=True))

    def _take(self, name: str, lazy: LazyTensor, suffixes: Sequence[str]) -> bool:
        """Take a tensor if the model expects this name and does not have it yet."""
        if name in self.ctx.vectors or name in self.ctx.biases or name in self._shared_biases:
            return self.plain.setdefault(name, lazy) is lazy
        for suffix in suffixes:
            owner = name[: len(name) - len(suffix)]
            if name.endswith(suffix) and owner in self._kinds:
                return self.weights.setdefault(owner, {}).setdefault(suffix, lazy) is lazy
        if name in self._kinds:
            return self.weights.setdefault(name, {}).setdefault("", lazy) is lazy
        return False

    def _source(self, part: str) -> _Source:
        """Where a part is stored, once all tensors are sorted."""
        found = self._sources.get(part)
        if found is None:
            shared = self._slices.get(part, ()) if part not in self.weights else ()
            found = next((source for source in shared if source.name in self.weights), None) or _Source(part)
            self._sources[part] = found
        return found

    def _missing_biases(self) -> list[str]:
        missing: dict[str, None] = {}
        for name, slot in self.ctx.biases.items():
            if slot.required and name not in self.plain and self._shared_bias(slot.part) is None:
                missing[self._bias_name(self._usual_name(slot.part))] = None
        return list(missing)

    def _shared_bias(self, part: str) -> tuple[str, _Source] | None:
        """The tensor with the biases of several parts, of which one is this, and where it is there."""
        for source in self._slices.get(part, ()):
            for name in (f"{source.name}.bias", f"{source.name}_bias"):
                if name in self._shared_biases and name in self.plain:
                    return name, source
        return None

    def _missing_weights(self) -> list[str]:
        missing: dict[str, None] = {}
        for part, layer in self.ctx.layers.items():
            source = self._source(part)
            if source.name in self.weights:
                missing |= dict.fromkeys(self._lacking_tensors(source.name))
            elif not _is_tied(layer):
                missing[self._tensor_name(self._usual_name(part))] = None
        return list(missing)

    def _lacking_tensors(self, name: str) -> list[str]:
        """The tensors without which no format can read what is there of a weight. None if one can, or if nothing is
        missing and no format reads the type, which is told when the weight is loaded.
        """
        if self._fit(name) is not None:
            return []
        tensors = self.weights[name]
        nearest: list[str] | None = None
        complete = False
        for choice, components in self._candidates(name):
            lacking = [suffix for suffix in components.required if _component(tensors, suffix) is None]
            first = _component(tensors, components.required[0])
            complete |= not lacking
            if not lacking or len(lacking) == len(components.required):
                continue
            if (first is None or first.type == choice.stored_type) and (nearest is None or len(lacking) < len(nearest)):
                nearest = lacking
        if nearest is None:
            return [] if complete or _component(tensors, ".weight") is not None else [self._tensor_name(name)]
        return [name + suffix for suffix in nearest]

    def _unused_tensors(self) -> list[str]:
        """Tensors of a weight that the format which reads it does not know, and weights that are stored twice."""
        fits = [fit for name in self.weights if (fit := self._fit(name)) is not None]
        unused = [lazy.name for fit in fits for lazy in fit.unknown]
        for name, stored in self.ctx.together.items():
            if name in self.weights:
                places = {self._source(part).name: None for group in stored.groups for part in group}
                others = [place for place in places if place != name and place in self.weights]
                unused += [lazy.name for other in others for lazy in self.weights[other].values()]
        return list(dict.fromkeys(unused))

    # Formats

    def _layouts(self, name: str) -> tuple[Components | None, ...]:
        """What each format expects of a weight, in the order of :attr:`formats`."""
        found = self._components.get(name)
        if found is None:
            weight = WeightName(name, self._kinds[name])
            found = tuple(quant_format.components(weight) for quant_format in self.formats.values())
            self._components[name] = found
        return found

    def _candidates(self, name: str) -> Iterator[tuple[WeightChoice, Components]]:
        """The choices that may read a weight, best first."""
        layouts = dict(zip(self.formats, self._layouts(name), strict=True))
        for choice in self.choices:
            if choice.kind == self._kinds[name] and (components := layouts[choice.format]) is not None:
                yield choice, components

    def _fit(self, name: str) -> _Fit | None:
        """The first format that can read a weight, once all tensors are sorted."""
        if name not in self._fits:
            self._fits[name] = self._find_fit(name)
        return self._fits[name]

    def _find_fit(self, name: str) -> _Fit | None:
        tensors = self.weights[name]
        for choice, components in self._candidates(name):
            required = [_component(tensors, suffix) for suffix in components.required]
            if any(lazy is None for lazy in required):
                continue
            if required[0] is None or required[0].type != choice.stored_type:
                continue
            suffixes = (*components.required, *components.optional)
            known = {suffix: lazy for suffix in suffixes if (lazy := _component(tensors, suffix)) is not None}
            used = set(map(id, known.values()))
            return _Fit(choice, known, tuple(lazy for lazy in tensors.values() if id(lazy) not in used))
        return None

    def _fitting(self, name: str) -> _Fit:
        if (found := self._fit(name)) is not None:
            return found
        names = ", ".join(f"{t.name} ({t.type})" for t in self.weights[name].values())
        raise ResolutionError(
            f"wanted a format for the {self._kinds[name]} layer made of {names}, found none in the plan",
            "see dovetail plan",
        )

    def _matrix(self, name: str, expert: int | None = None) -> tuple[WeightChoice, Tensors]:
        """The tensors of one matrix, as its format expects them, and the choice for it."""
        fit = self._fitting(name)
        tensors = fit.tensors
        if expert is not None:
            if self._stack is None or self._stack[0] != name:
                # Some loaders read or move a stack whenever they are asked for it, so each is read once.
                stack = {suffix: replace(lazy, read=cache(lazy.read)) for suffix, lazy in tensors.items()}
                self._stack = name, stack
            tensors = {suffix: _expert(lazy, expert) for suffix, lazy in self._stack[1].items()}
        if self.naming is None and name in self.ctx.transposed and fit.choice.stored_type in FLOATS:
            tensors = {suffix: _transposed(lazy) for suffix, lazy in tensors.items()}
        return fit.choice, tensors

    def _find_wrong_shapes(self) -> list[str]:
        ctx, wrong = self.ctx, []

        def check(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
            if found != wanted:
                wrong.append(f"{name} is {list(found)}, wanted {list(wanted)}")

        for name, lazy in self.plain.items():
            if name in ctx.vectors:
                check(lazy.name, lazy.shape, ctx.vectors[name].shape)
            elif name in ctx.biases:
                check(lazy.name, lazy.shape, self._bias_shape(ctx.biases[name].part))
            else:
                check(lazy.name, lazy.shape, self._bias_shape(self._shared_biases[name]))
        for name in self.weights:
            shape = self._stored_shape(name)
            if name in ctx.transposed:
                shape = (*shape[:-2], shape[-1], shape[-2])
            stack = shape[:-2]
            lazies = self.weights[name].values()
            if stack and (uneven := [lazy for lazy in lazies if lazy.shape[:1] != stack]):
                wrong += [
                    f"{lazy.name} is {list(lazy.shape)}, wanted one of each of {stack[0]} experts" for lazy in uneven
                ]
                continue
            choice, tensors = self._matrix(name, 0 if stack else None)
            weight, first = WeightName(name, self._kinds[name]), next(iter(tensors.values()))
            check(first.name, (*stack, *self.formats[choice.format].shape(weight, tensors)), shape)
        self._stack = None
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
        value = read_tensor(lazy)
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
            if (order := self._row_order(self._tensor_name(name), name)) is not None:
                with _named(name):
                    loaded = loaded.reorder(order)
            self._last = (name, expert), loaded
        return self._last[1]

    def _stored(self, layer: WeightLayer, part: str) -> StoredWeight:
        """This rank's part of a weight."""
        source = self._source(part)
        weight = self._whole(source.name, source.expert)
        with _named(part):
            if source.rows is not None:
                start, stop, step = source.rows
                if step > 1:
                    weight = weight.reorder(torch.arange(start, stop, step))
                else:
                    weight = weight.narrow(0, start, stop).compact()
            return layer.cut_weight(part, weight).to(self.ctx.device)

    def _together(self, layer: WeightLayer) -> dict[str, StoredWeight] | None:
        """The weight of a layer that is stored as it is computed, all parts in one, which nothing has to cut."""
        if len(layer.parts) == 1 or layer.cut is not None:
            return None
        (name, *others) = {self._source(part).name for part in layer.parts}
        stored = self.ctx.together.get(name)
        if others or stored is None or stored.stacked or stored.alternating or stored.groups != (tuple(layer.parts),):
            return None
        return {stored.groups[0][0]: self._whole(name, None).to(self.ctx.device)}

    def _local_weights(self, layer: WeightLayer) -> dict[str, StoredWeight]:
        """This rank's parts of a layer, in order. Those that are stored in one tensor are read one after the other."""
        parts = layer.local_parts()
        if len(parts) == 1:
            return {part: self._stored(layer, part) for part in parts}
        by_tensor: dict[str, list[str]] = {}
        for part in parts:
            by_tensor.setdefault(self._source(part).name, []).append(part)
        found = {part: self._stored(layer, part) for stored in by_tensor.values() for part in stored}
        return {part: found[part] for part in parts}

    def _finish(self, layer: WeightLayer) -> None:
        if isinstance(layer, Head) and layer.tied is not None and not layer.parts.keys() & self.weights.keys():
            # The embedding comes first in every model, so its table is there, cut as the head is or whole.
            assert layer.tied.weight is not None
            ((part, _),) = layer.parts.items()
            table = layer.tied.weight
            weights = {part: table if layer.tied.cut is not None else layer.cut_weight(part, table)}
            names = list(layer.tied.parts)
        else:
            weights = self._together(layer) or self._local_weights(layer)
            names = [self._source(part).name for part in weights]
        self._last = self._stack = None
        if isinstance(layer, Experts):
            self._finish_experts(layer, weights, list(dict.fromkeys(names)))
            return
        choices = {
            (type(weight), weight.type): self._fitting(name).choice
            for weight, name in zip(weights.values(), names, strict=True)
        }

        def make(weight: StoredWeight, kind: LayerKind) -> WeightKernel:
            return self._kernel(weight, kind, self._kernels(kind, choices[type(weight), weight.type]))

        layer.finish(weights, make)
        layer.bias = self._bias(layer)

    def _bias(self, layer: WeightLayer) -> Tensor | None:
        """The concatenated biases of a layer's parts."""
        biases = self._biases(layer)
        return torch.cat([layer.cut_bias(part, bias) for part, bias in biases.items()]) if biases else None

    def _biases(self, layer: WeightLayer) -> dict[str, Tensor]:
        """The whole biases of a layer's local parts, zeros for a part without one; empty if no part has one."""
        found = {part: self._find_bias(part) for part in layer.local_parts() if f"{part}.bias" in self.ctx.biases}
        if all(bias is None for bias in found.values()):
            return {}
        zeros = partial(torch.zeros, device=self.ctx.device, dtype=self.ctx.dtype)
        parts = {part: (found.get(part), layer.parts[part][0]) for part in layer.local_parts()}
        return {part: zeros(rows) if bias is None else bias for part, (bias, rows) in parts.items()}

    def _find_bias(self, part: str) -> Tensor | None:
        if (name := f"{part}.bias") in self.plain:
            return self._plain(name)
        if (shared := self._shared_bias(part)) is None:
            return None
        name, source = shared
        if name not in self._opened:
            self._opened[name] = self._plain(name)
        bias = self._opened[name] if source.expert is None else self._opened[name][source.expert]
        return bias if source.rows is None else bias[slice(*source.rows)]

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
        choices = [self._fitting(name).choice for name in names]
        by_type = {choice.stored_type: choice for choice in choices}
        shared = [entry for entry in choices[0].kernels if all(entry in choice.kernels for choice in choices)]
        found, reasons = layer.collect(weights, self._biases(layer)), []

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


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Add a weight's name to what is wrong with a cut of it."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error.problem}", error.hint) from None


def _component(tensors: Tensors, suffix: str) -> LazyTensor | None:
    """A tensor of a weight. The matrix of a stack of experts, and of a few layers, has the weight's own name."""
    found = tensors.get(suffix)
    return tensors.get("") if found is None and suffix == ".weight" else found


def _expert(lazy: LazyTensor, index: int) -> LazyTensor:
    """One matrix of a stack."""

    def read() -> Tensor:
        whole = lazy.read()
        # Packed bytes come as rows of all experts.
        if whole.dim() < len(lazy.shape) and whole.shape[0] % lazy.shape[0] == 0:
            whole = whole.unflatten(0, (lazy.shape[0], -1))
        if whole.shape[0] != lazy.shape[0]:
            raise CheckpointError(
                f"tensor {lazy.name} was announced as {lazy.type} {list(lazy.shape)}, but reads as {whole.dtype} {list(whole.shape)}",
                "the file is damaged or its loader is at fault; download it again or update the loader",
            )
        return whole[index]

    return replace(lazy, shape=lazy.shape[1:], read=read)


def _transposed(lazy: LazyTensor) -> LazyTensor:
    """A matrix ``[K, N]`` as ``[N, K]``; anything else as it is."""
    if len(lazy.shape) != 2:
        return lazy
    return replace(lazy, shape=lazy.shape[::-1], read=lambda: lazy.read().t())


def _is_tied(layer: WeightLayer) -> bool:
    return isinstance(layer, Head) and layer.tied is not None

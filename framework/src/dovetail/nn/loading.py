"""Reads a checkpoint's tensors into the layers of a model. Where each belongs, :mod:`dovetail.nn.placing` finds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dovetail.api.cards import LayerKind
from dovetail.api.checkpoint import LazyTensor, Naming
from dovetail.api.errors import CheckpointError, ResolutionError
from dovetail.nn.context import Context
from dovetail.nn.experts import Experts, ExpertsKernel
from dovetail.nn.layers import Embedding, Head, WeightLayer
from dovetail.nn.placing import UNKNOWN, Suspects, TensorPlaces, WeightChoice
from dovetail.nn.stored import StoredWeight
from dovetail.nn.weights import WeightKernel, WeightName, read_tensor

Progress = Callable[[int, int], None]
"""Called with (weights loaded, weights in all), in elements, first with none loaded."""


class WeightReader:
    """Reads a checkpoint's tensors into the layers of a model.

    Args:
        ctx: that the model was built with.
        choices: of the Plan, best format first.
        config: the model's configuration as a dict (what a naming's row orders depend on).
        naming: translates tensor names, if the container has its own.
        rename: the model's own translation of names; see :meth:`dovetail.nn.PoolingModel.rename`.
        unread: as in :class:`dovetail.nn.placing.TensorPlaces`.
    """

    def __init__(
        self,
        ctx: Context,
        choices: Iterable[WeightChoice],
        config: Mapping[str, Any],
        naming: Naming | None = None,
        rename: Callable[[str], str | None] | None = None,
        unread: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.ctx = ctx
        self.choices = list(choices)
        self.config = config
        self.naming = naming
        translate = rename if naming is None else naming.rename
        self.places = TensorPlaces(
            ctx, self.choices, translate or _unchanged, translated=naming is not None, unread=unread
        )
        self.used: dict[str, int] = {}
        """Kernel name → number of weights that it serves, for the log."""
        self._opened: dict[str, Tensor] = {}
        """Biases of the layer that is being loaded which are stored together, so that they are read once."""
        self._last: tuple[tuple[str, int | None], StoredWeight] | None = None

    def expected(self) -> dict[str, tuple[int, ...]]:
        """The required tensors by Hugging Face name, with their shapes. For a weight it is the shape ``(N, K)``
        without quantization.
        """
        return self.places.expected()

    def load(
        self, tensors: Iterable[LazyTensor], progress: Progress | None = None, suspects: Suspects = UNKNOWN
    ) -> None:
        """Load all tensors.

        Raises:
            CheckpointError: tensors are missing, unexpected or misshapen; the error names all of them.
        """
        self.places.sort(tensors, suspects)
        sizes = self._sizes()
        layers, total, done = list(sizes), sum(sizes.values()), 0
        if progress:
            progress(0, total)
        for name, slot in self.ctx.vectors.items():
            if name in self.places.plain:
                slot.assign(self._plain(name, slot.dtype, slot.shape))
        for layer in layers:
            self._finish(layer)
            self._opened.clear()
            done += sizes[layer]
            if progress:
                progress(done, total)
        for layer in layers:
            if isinstance(layer, Embedding):
                layer.weight = None  # it was kept for a head that is tied to it
        self.places.clear()

    # Weights

    def _sizes(self) -> dict[WeightLayer, int]:
        """Layer → number of elements of its weights; 0 for a tied head."""
        sizes = dict.fromkeys(self.ctx.layers.values(), 0)
        for name, layer in self.ctx.layers.items():
            if self.places.source(name).name in self.places.weights:
                sizes[layer] += math.prod(layer.parts[name])
        return sizes

    def _row_order(self, name: str, stored: str | None = None) -> Tensor | None:
        if self.naming is None:
            return self.ctx.row_orders.get(stored or "")
        order = self.naming.row_order(name, self.config)
        return None if order is None else torch.from_numpy(np.asarray(order, dtype=np.int64))

    def _plain(self, name: str, dtype: torch.dtype | None = None, shape: tuple[int, ...] | None = None) -> Tensor:
        lazy = self.places.plain[name]
        value = read_tensor(lazy, shape)
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
            choice, tensors = self.places.matrix(name, expert)
            weight = WeightName(name, self.places.kinds[name])
            # What is only read for a part of it stays in its file, or on the host, until it is cut.
            device = self.ctx.device if self.ctx.parallel.size == 1 else torch.device("cpu")
            loaded = self.places.formats[choice.format].load(weight, tensors, device, self.ctx.dtype)
            if (order := self._row_order(self.places.tensor_name(name), name)) is not None:
                with _named(name):
                    loaded = loaded.reorder(order)
            self._last = (name, expert), loaded
        return self._last[1]

    def _stored(self, layer: WeightLayer, part: str) -> StoredWeight:
        """This rank's part of a weight."""
        source = self.places.source(part)
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
        (name, *others) = {self.places.source(part).name for part in layer.parts}
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
            by_tensor.setdefault(self.places.source(part).name, []).append(part)
        found = {part: self._stored(layer, part) for stored in by_tensor.values() for part in stored}
        return {part: found[part] for part in parts}

    def _finish(self, layer: WeightLayer) -> None:
        if isinstance(layer, Head) and layer.tied is not None and not layer.parts.keys() & self.places.weights.keys():
            # The embedding comes first in every model, so its table is there, cut as the head is or whole.
            assert layer.tied.weight is not None
            ((part, _),) = layer.parts.items()
            table = layer.tied.weight
            weights = {part: table if layer.tied.cut is not None else layer.cut_weight(part, table)}
            names = list(layer.tied.parts)
        else:
            weights = self._together(layer) or self._local_weights(layer)
            names = [self.places.source(part).name for part in weights]
        self._last = None
        self.places.close_stack()
        if isinstance(layer, Experts):
            self._finish_experts(layer, weights, list(dict.fromkeys(names)))
            return
        choices = {
            (type(weight), weight.type): self.places.fitting(name).choice
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
        if (name := f"{part}.bias") in self.places.plain:
            return self._plain(name)
        if (shared := self.places.shared_bias(part)) is None:
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
        choices = [self.places.fitting(name).choice for name in names]
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


def _unchanged(name: str) -> str:
    return name

"""Loads lazy tensors into layers. All names and shapes are checked before the first weight is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dovetail.api.cards import LayerKind
from dovetail.api.checkpoint import LazyTensor, Naming
from dovetail.api.errors import CheckpointError, ResolutionError
from dovetail.api.text import join_names
from dovetail.nn.context import Context
from dovetail.nn.layers import Embedding, Head, WeightLayer
from dovetail.nn.leftovers import Leftovers, without_wrappers
from dovetail.nn.weights import QuantFormat, StoredWeight, WeightKernel

Progress = Callable[[int, int], None]
"""Called with (weights loaded, weights in all), in elements, first with none loaded."""


@dataclass
class KernelChoice:
    """Classes that the Plan names for one (layer kind, stored type)."""

    format: type[QuantFormat]
    kernels: list[tuple[str, type[WeightKernel]]]


class WeightReader:
    """Reads a checkpoint's tensors into the layers of a model.

    Args:
        ctx: that the model was built with.
        choices: (kind, type) → format and kernels.
        config: the model's configuration as a dict (``quantization_config``, and what a naming's row orders depend on).
        naming: translates tensor names, if the container has its own.
    """

    def __init__(
        self,
        ctx: Context,
        choices: Mapping[tuple[LayerKind, str], KernelChoice],
        config: Mapping[str, Any],
        naming: Naming | None = None,
    ) -> None:
        self.ctx = ctx
        self.choices = choices
        self.config = config
        self.naming = naming
        self.formats: dict[type[QuantFormat], QuantFormat] = {}
        self.weights: dict[str, dict[str, LazyTensor]] = {}
        self.plain: dict[str, LazyTensor] = {}
        self.leftovers = Leftovers()
        self.used: dict[str, int] = {}
        """Kernel name → number of layers that it serves, for the log."""

    def expected(self) -> dict[str, tuple[int, ...]]:
        """The required tensors by Hugging Face name, with their shapes. For a weight it is the shape ``(N, K)``
        without quantization.
        """
        ctx = self.ctx
        shapes: dict[str, tuple[int, ...]] = {
            f"{name}.weight": (layer.parts[name], layer.columns)
            for name, layer in ctx.layers.items()
            if not _is_tied(layer)
        }
        shapes |= {name: (slot.layer.parts[slot.part],) for name, slot in ctx.biases.items() if slot.required}
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

    def _sizes(self) -> dict[WeightLayer, int]:
        """Layer → number of elements of its weights in the checkpoint; 0 for a tied head."""
        sizes = dict.fromkeys(self.ctx.layers.values(), 0)
        for name, layer in self.ctx.layers.items():
            sizes[layer] += sum(math.prod(lazy.shape) for lazy in self.weights.get(name, {}).values())
        return sizes

    def _sort(self, tensors: Iterable[LazyTensor]) -> None:
        ctx, unexpected = self.ctx, []
        known = {c for choice in self.choices.values() for c in choice.format.components}
        for lazy in tensors:
            name = self.naming.rename(lazy.name) if self.naming else lazy.name
            if name is None or self._take(name, lazy, known) or self._take(without_wrappers(name), lazy, known):
                continue
            if not self.leftovers.take(name, lazy, ctx.ignored):
                unexpected.append(lazy.name)
        self.leftovers.log()
        missing = [n for n, slot in ctx.vectors.items() if slot.required and n not in self.plain]
        missing += [n for n, slot in ctx.biases.items() if slot.required and n not in self.plain]
        missing += [f"{n}.weight" for n, layer in ctx.layers.items() if n not in self.weights and not _is_tied(layer)]
        faults = []
        if missing:
            faults.append(f"missing: {join_names(missing)}")
        if unexpected:
            faults.append(f"unexpected: {join_names(unexpected)}")
        if wrong := self._find_wrong_shapes():
            faults.append(f"of the wrong shape: {join_names(wrong)}")
        if faults:
            raise CheckpointError(
                f"the checkpoint does not hold the tensors that the model expects ({'; '.join(faults)})",
                "the architecture or its configuration does not match these files, or a file is missing: compare config.json, or force "
                "another architecture with --hf-overrides",
            )

    def _take(self, name: str, lazy: LazyTensor, components: Container[str]) -> bool:
        """Take a tensor if the model expects this name and does not have it yet."""
        owner, _, component = name.rpartition(".")
        if name in self.ctx.vectors or name in self.ctx.biases:
            place, key = self.plain, name
        elif owner in self.ctx.layers and component in components:
            place, key = self.weights.setdefault(owner, {}), component
        else:
            return False
        if key in place:
            return False
        place[key] = lazy
        return True

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
                check(lazy.name, lazy.shape, (slot.layer.parts[slot.part],))
        for part, components in self.weights.items():
            layer = ctx.layers[part]
            found = self._format(layer.kind, components).shape(components)
            check(next(iter(components.values())).name, found, (layer.parts[part], layer.columns))
        return wrong

    def _choice(self, kind: LayerKind, components: Mapping[str, LazyTensor]) -> KernelChoice:
        for component, lazy in components.items():
            choice = self.choices.get((kind, lazy.type))
            # The first component's type is the weight's; scales beside it have types, and so formats, of their own.
            if choice and choice.format.components[0] == component and set(choice.format.components) <= set(components):
                return choice
        names = ", ".join(f"{t.name} ({t.type})" for t in components.values())
        raise ResolutionError(
            f"wanted a format for the {kind} layer made of {names}, found none in the plan", "see dovetail plan"
        )

    def _format(self, kind: LayerKind, components: Mapping[str, LazyTensor]) -> QuantFormat:
        cls = self._choice(kind, components).format
        if cls not in self.formats:
            self.formats[cls] = cls(self.config.get("quantization_config") or {})
        return self.formats[cls]

    def _row_order(self, name: str) -> torch.Tensor | None:
        order = self.naming.row_order(name, self.config) if self.naming else None
        return None if order is None else torch.from_numpy(np.asarray(order, dtype=np.int64))

    def _plain(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        lazy = self.plain[name]
        value = lazy.read()
        if not value.is_floating_point():
            raise CheckpointError(
                f"tensor {lazy.name} is of type {lazy.type}, wanted a floating-point one", "check the file"
            )
        if (order := self._row_order(name)) is not None:
            value = value[order]
        # A copy, so that small tensors do not hold a mapped file open.
        return value.to(device=self.ctx.device, dtype=dtype or self.ctx.dtype, copy=True)

    def _stored(self, layer: WeightLayer, part: str) -> StoredWeight:
        components = self.weights[part]
        weight = self._format(layer.kind, components).load(components, self.ctx.device, self.ctx.dtype)
        order = self._row_order(f"{part}.weight")
        return weight if order is None else weight.reorder(order)

    def _finish(self, layer: WeightLayer) -> None:
        if isinstance(layer, Head) and layer.tied is not None and not set(layer.parts) & set(self.weights):
            # The embedding comes first in every model, so its table is there.
            assert layer.tied.weight is not None
            (part,) = layer.tied.parts
            weights, components = [layer.tied.weight], [self.weights[part]]
        else:
            weights = [self._stored(layer, part) for part in layer.parts]
            components = [self.weights[part] for part in layer.parts]
        by_type = {w.type: c for w, c in zip(weights, components, strict=True)}

        def make(weight: StoredWeight, kind: LayerKind) -> WeightKernel:
            return self._kernel(weight, kind, self._choice(kind, by_type[weight.type]))

        layer.finish(weights, make)
        layer.bias = self._bias(layer)

    def _bias(self, layer: WeightLayer) -> torch.Tensor | None:
        """The concatenated biases of a layer's parts, zeros for a part without one; None if no part has one."""
        names = {f"{part}.bias": rows for part, rows in layer.parts.items()}
        if not any(name in self.ctx.biases and name in self.plain for name in names):
            return None
        parts = [
            self._plain(name) if name in self.plain else torch.zeros(rows, device=self.ctx.device, dtype=self.ctx.dtype)
            for name, rows in names.items()
        ]
        return torch.cat(parts)

    def _kernel(self, weight: StoredWeight, kind: LayerKind, choice: KernelChoice) -> WeightKernel:
        reasons = []
        for name, kernel in choice.kernels:
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


def _is_tied(layer: WeightLayer) -> bool:
    return isinstance(layer, Head) and layer.tied is not None

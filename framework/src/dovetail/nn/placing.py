"""Finds the place of every tensor of a checkpoint: the weight that it is a part of, and the format that reads that.

Nothing is read here. What is missing, left over or misshapen is told before the first weight is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from types import MappingProxyType
from typing import Any

from torch import Tensor

from dovetail.api.cards import LayerKind
from dovetail.api.checkpoint import LazyTensor
from dovetail.api.errors import CheckpointError, PluginError, ResolutionError
from dovetail.api.text import join_names
from dovetail.nn.context import Context
from dovetail.nn.experts import ExpertsKernel
from dovetail.nn.layers import Head, WeightLayer
from dovetail.nn.leftovers import Leftovers, without_wrappers
from dovetail.nn.weights import Components, QuantFormat, WeightKernel, WeightName, wide

FLOATS = ("float64", "float32", "bfloat16", "float16")
"""Stored types of full-precision checkpoints."""
MOST_REASONS = 3
"""Formats, or weights, of which a message says why they do not fit."""
Tensors = dict[str, LazyTensor]
"""Component → its tensor."""
Rename = Callable[[str], str | None]


@dataclass(frozen=True)
class WeightChoice:
    """What the Plan names for weights of one stored type in one kind of layer.

    Attributes:
        stored_type: as in :attr:`dovetail.api.LazyTensor.type`.
        format: its class.
        kernels: (name, class), best first.
        config: for the format, as in :class:`dovetail.nn.QuantFormat`.
        name: of the format, for messages; that of its class if there is none.
    """

    kind: LayerKind
    stored_type: str
    format: type[QuantFormat]
    kernels: Sequence[tuple[str, type[WeightKernel] | type[ExpertsKernel]]]
    config: Any = field(default_factory=dict)
    name: str = ""

    @property
    def format_name(self) -> str:
        return self.name or self.format.__name__


@dataclass(frozen=True)
class Suspects:
    """Who may be at fault if a checkpoint's tensors are not those that the model expects, as the error tells it.

    Attributes:
        model: whose layers name the tensors.
        missing: who else may be, if tensors are missing: the files, or what reads them.
        way_out: what to do if it is the model.
    """

    model: str = "the model"
    missing: str = ""
    way_out: str = ""


UNKNOWN = Suspects()


@dataclass(frozen=True)
class Source:
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
class Fit:
    """The format that reads a weight.

    Attributes:
        tensors: by component, the required ones first.
        unknown: what the checkpoint has beside them under the weight's name.
    """

    choice: WeightChoice
    tensors: Tensors
    unknown: tuple[LazyTensor, ...]


class TensorPlaces:
    """The places of a checkpoint's tensors in a model.

    Args:
        ctx: that the model was built with.
        choices: of the Plan, best format first.
        rename: a tensor's name in the checkpoint → the one that the model expects; None for one that is left out.
        translated: the checkpoint is a container with names of its own, so its weights are not transposed.
        unread: stored type that no format of the Plan reads → installed formats that would with another
            ``quantization_config``.

    Attributes:
        formats: one object of each class.
        kinds: name of a stored weight → the kind of its layer.
        weights: name of a stored weight → its tensors, once they are sorted.
        plain: name of a plain tensor → it.
    """

    def __init__(
        self,
        ctx: Context,
        choices: Sequence[WeightChoice],
        rename: Rename,
        *,
        translated: bool,
        unread: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.ctx = ctx
        self.choices = choices
        self.unread = unread
        self.rename = rename
        self.translated = translated
        self.formats: dict[type[QuantFormat], QuantFormat] = {}
        self._format_kinds: dict[type[QuantFormat], set[LayerKind]] = {}
        for choice in self.choices:
            if choice.format not in self.formats:
                self.formats[choice.format] = choice.format(choice.config)
            self._format_kinds.setdefault(choice.format, set()).add(choice.kind)
        self.weights: dict[str, Tensors] = {}
        self.plain: dict[str, LazyTensor] = {}
        self.leftovers = Leftovers()
        self._slices: dict[str, list[Source]] = {}
        """Part → where it is, if its weights are stored together: one place for each form that checkpoints have."""
        for part, source in self._find_slices():
            self._slices.setdefault(part, []).append(source)
        self._shared_biases = dict(self._find_shared_biases())
        self.kinds: dict[str, LayerKind] = {name: layer.kind for name, layer in ctx.layers.items()}
        for name, stored in ctx.together.items():
            self.kinds[name] = ctx.layers[stored.groups[0][0]].kind
        self._stack: tuple[str, Tensors] | None = None
        self._components: dict[str, tuple[Components | None, ...]] = {}
        """Weight → what each format expects of it. Formats are asked once, since a model may have 50,000 weights."""
        self._fits: dict[str, Fit | None] = {}
        self._sources: dict[str, Source] = {}

    def expected(self) -> dict[str, tuple[int, ...]]:
        """The required tensors by Hugging Face name, with their shapes. For a weight it is the shape ``(N, K)``
        without quantization.
        """
        ctx = self.ctx
        shapes: dict[str, tuple[int, ...]] = {}
        for name, layer in ctx.layers.items():
            if not is_tied(layer):
                stored = self._usual_name(name)
                shapes[self.tensor_name(stored)] = self._stored_shape(stored)
        for slot in ctx.biases.values():
            if slot.required:
                stored = self._usual_name(slot.part)
                shapes[self._bias_name(stored)] = self._bias_shape(stored)
        return shapes | {name: slot.shape for name, slot in ctx.vectors.items() if slot.required}

    def _find_slices(self) -> Iterator[tuple[str, Source]]:
        """Part → where it is if its weights are stored together."""
        for name, stored in self.ctx.together.items():
            for expert, group in enumerate(stored.groups):
                start = 0
                rows = [self.ctx.layers[part].parts[part][0] for part in group]
                for index, (part, count) in enumerate(zip(group, rows, strict=True)):
                    cut = (index, sum(rows), len(group)) if stored.alternating else (start, start + count, 1)
                    yield part, Source(name, expert if stored.stacked else None, cut if len(group) > 1 else None)
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

    def tensor_name(self, name: str) -> str:
        """The tensor that holds a weight in full precision. Stacks of experts have no suffix."""
        stored = self.ctx.together.get(name)
        return name if stored is not None and stored.stacked else f"{name}.weight"

    def sort(self, tensors: Iterable[LazyTensor], suspects: Suspects = UNKNOWN) -> None:
        """Find the place of every tensor.

        Raises:
            CheckpointError: tensors are missing, unexpected or misshapen.
        """
        ctx = self.ctx
        suffixes = self._suffixes()
        strange = [lazy for lazy in tensors if not self._place(lazy, suffixes)]
        unread = [lazy for lazy in strange if lazy.type in self.unread]
        unexpected = [lazy.name for lazy in strange]
        self.leftovers.log()
        missing = [n for n, slot in ctx.vectors.items() if slot.required and n not in self.plain]
        missing += self._missing_biases()
        missing += self._missing_weights()
        unexpected += self._unused_tensors()
        faults = []
        # A wrong shape often says why others are missing or left over: a number in the configuration is wrong.
        if wrong := self._find_wrong_shapes(bool(missing)):
            faults.append(f"of the wrong shape: {join_names(wrong)}")
        if missing:
            faults.append(f"missing: {join_names(missing)}")
        if unexpected:
            faults.append(f"unexpected: {join_names(unexpected)}")
        if faults:
            reasons = self._unread_reasons(unread) or (self._lacking_reasons() if missing else [])
            raise CheckpointError(
                f"the checkpoint does not hold the tensors that {suspects.model} expects ({'; '.join(faults)})"
                + _join_reasons(reasons)
                + (f"; {suspects.missing}" if suspects.missing and missing else ""),
                "config.json has no quantization_config for these tensors; if you know it, give it with --hf-overrides"
                if unread
                else "the tensors and config.json's quantization_config disagree, or a file is missing"
                if reasons and not unexpected and not wrong
                else "the architecture or its configuration does not match these files, or a file is missing: compare config.json, or "
                "force another architecture with --hf-overrides"
                + (f", or {suspects.way_out}" if suspects.way_out else ""),
            )

    def _unread_reasons(self, unread: Sequence[LazyTensor]) -> list[str]:
        """Which formats would read tensors that the model does not expect."""
        first = {lazy.type: lazy.name for lazy in reversed(unread)}
        return [
            f"tensors of type {type_} such as {name} are those of the format {' or '.join(self.unread[type_])}"
            for type_, name in first.items()
        ]

    def _lacking_reasons(self) -> list[str]:
        """Why no format reads the weights of which a part is there, for the first few of them."""
        found = (self._explain(name)[:1] for name in self.weights if self._fit(name) is None)
        return [reason for reasons in islice(found, MOST_REASONS) for reason in reasons]

    def _place(self, lazy: LazyTensor, suffixes: Sequence[str]) -> bool:
        """Whether a tensor is the model's, or may be left out."""
        found: str | None = None
        for stored in dict.fromkeys((lazy.name, without_wrappers(lazy.name))):
            found = self.rename(stored)
            if found is None or self._take(found, lazy, suffixes):
                return True
        assert found is not None
        return self.leftovers.take(found, lazy, self.ctx.ignored, self.ctx.further_layers)

    def _suffixes(self) -> tuple[str, ...]:
        """Every component that a format may ask for, longest first."""
        found = {".weight"} | {
            suffix for name in self.kinds for c in self._layouts(name) if c for suffix in c.required + c.optional
        }
        return tuple(sorted(found, key=len, reverse=True))

    def _take(self, name: str, lazy: LazyTensor, suffixes: Sequence[str]) -> bool:
        """Take a tensor if the model expects this name and does not have it yet."""
        if name in self.ctx.vectors or name in self.ctx.biases or name in self._shared_biases:
            return self.plain.setdefault(name, lazy) is lazy
        for suffix in suffixes:
            owner = name[: len(name) - len(suffix)]
            if name.endswith(suffix) and owner in self.kinds:
                return self.weights.setdefault(owner, {}).setdefault(suffix, lazy) is lazy
        if name in self.kinds:
            return self.weights.setdefault(name, {}).setdefault("", lazy) is lazy
        return False

    def source(self, part: str) -> Source:
        """Where a part is stored, once all tensors are sorted."""
        found = self._sources.get(part)
        if found is None:
            shared = self._slices.get(part, ()) if part not in self.weights else ()
            found = next((source for source in shared if source.name in self.weights), None) or Source(part)
            self._sources[part] = found
        return found

    def _missing_biases(self) -> list[str]:
        missing: dict[str, None] = {}
        for name, slot in self.ctx.biases.items():
            if slot.required and name not in self.plain and self.shared_bias(slot.part) is None:
                missing[self._bias_name(self._usual_name(slot.part))] = None
        return list(missing)

    def shared_bias(self, part: str) -> tuple[str, Source] | None:
        """The tensor with the biases of several parts, of which one is this, and where it is there."""
        for source in self._slices.get(part, ()):
            for name in (f"{source.name}.bias", f"{source.name}_bias"):
                if name in self._shared_biases and name in self.plain:
                    return name, source
        return None

    def _missing_weights(self) -> list[str]:
        missing: dict[str, None] = {}
        for part, layer in self.ctx.layers.items():
            source = self.source(part)
            if source.name in self.weights:
                missing |= dict.fromkeys(self._lacking_tensors(source.name))
            elif not is_tied(layer):
                missing[self.tensor_name(self._usual_name(part))] = None
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
            return [] if complete or _component(tensors, ".weight") is not None else [self.tensor_name(name)]
        return [name + suffix for suffix in nearest]

    def _unused_tensors(self) -> list[str]:
        """Tensors of a weight that the format which reads it does not know, and weights that are stored twice."""
        fits = [fit for name in self.weights if (fit := self._fit(name)) is not None]
        unused = [lazy.name for fit in fits for lazy in fit.unknown]
        for name, stored in self.ctx.together.items():
            if name in self.weights:
                places = {self.source(part).name: None for group in stored.groups for part in group}
                others = [place for place in places if place != name and place in self.weights]
                unused += [lazy.name for other in others for lazy in self.weights[other].values()]
        return list(dict.fromkeys(unused))

    # Formats

    def _layouts(self, name: str) -> tuple[Components | None, ...]:
        """What each format expects of a weight, in the order of :attr:`formats`."""
        found = self._components.get(name)
        if found is None:
            weight = WeightName(name, self.kinds[name])
            found = tuple(
                reader.components(weight) if weight.kind in self._format_kinds[kind] else None
                for kind, reader in self.formats.items()
            )
            self._components[name] = found
        return found

    def _explain(self, name: str) -> list[str]:
        """For each format that reads weights of this kind, why it does not read this one. The nearest come first."""
        tensors, layouts = self.weights[name], dict(zip(self.formats, self._layouts(name), strict=True))
        types: dict[tuple[str, type[QuantFormat]], list[str]] = {}
        for choice in self.choices:
            if choice.kind == self.kinds[name]:
                types.setdefault((choice.format_name, choice.format), []).append(choice.stored_type)
        reasons: list[tuple[tuple[int, int, int], str]] = []
        there = ", ".join(lazy.name for lazy in tensors.values())
        for (told, quant_format), known in types.items():
            components = layouts[quant_format]
            if components is None:
                reasons.append(((0, 0, 0), f"{told} leaves {name} out by its configuration, but found {there}"))
                continue
            lacking = [suffix for suffix in components.required if _component(tensors, suffix) is None]
            first, count = _component(tensors, components.required[0]), len(lacking) - len(components.required)
            if first is not None and first.type not in known:
                wants = f"{' or '.join(known)} for {components.required[0] or 'it'}, found {first.type}"
                reasons.append(((2, len(lacking), count), f"{told} wants {wants}"))
            elif lacking and count:
                reasons.append(((1, len(lacking), count), f"{told} wants {', '.join(lacking)} beside {there}"))
        return [reason for _, reason in sorted(reasons, key=lambda entry: entry[0])]

    def _candidates(self, name: str) -> Iterator[tuple[WeightChoice, Components]]:
        """The choices that may read a weight, best first."""
        layouts = dict(zip(self.formats, self._layouts(name), strict=True))
        for choice in self.choices:
            if choice.kind == self.kinds[name] and (components := layouts[choice.format]) is not None:
                yield choice, components

    def _fit(self, name: str) -> Fit | None:
        """The first format that can read a weight, once all tensors are sorted."""
        if name not in self._fits:
            self._fits[name] = self._find_fit(name)
        return self._fits[name]

    def _find_fit(self, name: str) -> Fit | None:
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
            return Fit(choice, known, tuple(lazy for lazy in tensors.values() if id(lazy) not in used))
        return None

    def fitting(self, name: str) -> Fit:
        if (found := self._fit(name)) is not None:
            return found
        names = ", ".join(f"{t.name} ({t.type})" for t in self.weights[name].values())
        kind = self.kinds[name]
        if kind not in {choice.kind for choice in self.choices}:
            raise PluginError(
                f"the layer made of {names} is of the kind {kind}, which the model's card does not list in layer_kinds",
                "update the plugin that offers the model",
            )
        raise ResolutionError(
            f"wanted a format for the {kind} layer made of {names}, found none in the plan"
            + _join_reasons(self._explain(name)),
            "the tensors and config.json's quantization_config disagree, or this layer needs another format; see dovetail plan",
        )

    def matrix(self, name: str, expert: int | None = None) -> tuple[WeightChoice, Tensors]:
        """The tensors of one matrix, as its format expects them, and the choice for it."""
        fit = self.fitting(name)
        tensors = fit.tensors
        if expert is not None:
            if self._stack is None or self._stack[0] != name:
                # Some loaders read or move a stack whenever they are asked for it, so each is read once.
                stack = {suffix: replace(lazy, read=cache(lazy.read)) for suffix, lazy in tensors.items()}
                self._stack = name, stack
            tensors = {suffix: _expert(lazy, expert) for suffix, lazy in self._stack[1].items()}
        if not self.translated and name in self.ctx.transposed and fit.choice.stored_type in FLOATS:
            tensors = {suffix: _transposed(lazy) for suffix, lazy in tensors.items()}
        if fit.choice.stored_type in FLOATS and self._stored_shape(name)[-2] == 1:
            tensors = {suffix: _as_row(lazy) for suffix, lazy in tensors.items()}
        return fit.choice, tensors

    def _find_wrong_shapes(self, missing: bool) -> list[str]:
        ctx, wrong = self.ctx, []

        def check(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
            if found != wanted:
                wrong.append(f"{name} is {list(found)}, wanted {list(wanted)}")

        for name, lazy in self.plain.items():
            if name in ctx.vectors:
                shape = ctx.vectors[name].shape
                check(lazy.name, shape if wide(lazy.shape) == wide(shape) else lazy.shape, shape)
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
            if missing and self._fit(name) is None:  # what it lacks is told
                continue
            choice, tensors = self.matrix(name, 0 if stack else None)
            weight, first = WeightName(name, self.kinds[name]), next(iter(tensors.values()))
            check(first.name, (*stack, *self.formats[choice.format].shape(weight, tensors)), shape)
        self._stack = None
        return wrong

    def close_stack(self) -> None:
        """Forget the stack of experts that was read last."""
        self._stack = None

    def clear(self) -> None:
        """Forget all tensors: what is still in its file must not keep the file mapped."""
        for kept in (self.weights, self.plain, self._fits, self._components, self._sources):
            kept.clear()
        self._stack = None


def _join_reasons(reasons: Sequence[str]) -> str:
    """To follow what was found."""
    return f": {'; '.join(reasons[:MOST_REASONS])}" if reasons else ""


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


def _as_row(lazy: LazyTensor) -> LazyTensor:
    """A matrix of one row ``[1, K]`` that some containers store as ``[K]``; anything else as it is."""
    if len(lazy.shape) != 1:
        return lazy
    return replace(lazy, shape=(1, *lazy.shape), read=lambda: lazy.read().unsqueeze(0))


def is_tied(layer: WeightLayer) -> bool:
    return isinstance(layer, Head) and layer.tied is not None

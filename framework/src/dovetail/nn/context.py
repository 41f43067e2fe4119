"""The context that a model is built with: the Plan's decisions behind a few factory methods.

Every factory takes checkpoint names. So the layers themselves define which checkpoint tensors the model needs, and the
two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dovetail.api.errors import UsageError
from dovetail.nn.attention import Attention, AttentionBackend, AttentionSpec
from dovetail.nn.experts import Activation, Experts
from dovetail.nn.layers import (
    CutRMSNorm,
    Embedding,
    Head,
    HeadSections,
    HeadStack,
    LayerNorm,
    Linear,
    RMSNorm,
    TokenHead,
    WeightLayer,
)
from dovetail.nn.lora import StackedAdapters
from dovetail.nn.ops import Ops
from dovetail.nn.parallel import ColumnCut, Cut, HeadCut, Parallel, Range, RowCut

Assign = Callable[[Tensor], None]
Norm = RMSNorm | LayerNorm
Side = Literal["rows", "columns"]
Bias = bool | Literal["optional"]
"""Whether a layer has a bias; ``optional``: if the checkpoint has one, decided for each part."""


@dataclass(frozen=True)
class VectorSlot:
    """A plain tensor that a model expects (a norm's scale, a bias).

    Attributes:
        shape: which it gets. A checkpoint must have it, but for dimensions of size 1: routers' correction biases are
            stored as ``[E]`` and as ``[1, E]``.
        assign: receives the tensor, on the device.
        required: a checkpoint without it is refused.
        dtype: to convert it to; None for that of the activations.
    """

    shape: tuple[int, ...]
    assign: Assign
    required: bool = True
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class BiasSlot:
    """One part of a layer's bias.

    Attributes:
        required: a checkpoint without it is refused; otherwise the part has none.
    """

    layer: WeightLayer
    part: str
    required: bool = True


@dataclass(frozen=True)
class StoredTogether:
    """Weights that a checkpoint stores as one.

    Attributes:
        groups: parts whose rows are stored one after the other; for a stack, those of each expert.
        stacked: the stored tensors' first dimension is the experts.
        required: checkpoints have no other form, so this is the name for what is missing.
        alternating: rows of the parts alternate: the first of each, the second of each, and so on.
    """

    groups: tuple[tuple[str, ...], ...]
    stacked: bool
    required: bool = False
    alternating: bool = False


class Context:
    """The factories.

    Attributes:
        device, dtype: of activations.
        ops: the platform's operations.
        max_tokens: the longest sequence that will be run.
        parallel: this rank's place among those that share the model.
        layers: checkpoint name of a weight → its layer.
        together: name of a stored weight that holds several of them → which.
        row_orders: name of a weight that Hugging Face checkpoints store in another order → ``order``, as in
            :meth:`dovetail.api.Naming.row_order`.
        transposed: names of weights that full-precision Hugging Face checkpoints store as ``[K, N]``.
        vectors: checkpoint name of a plain tensor → where it goes.
        ignored: endings of names of tensors that the model ignores.
        further_layers: checkpoint name of a model's layers → the number from which on it ignores them.
        attention_layers: in the order of creation, which is the order of their KV caches.
        adapters: the LoRA slots of all linear layers, ``max_loras`` of them with ranks of up to ``max_lora_rank``; None
            for ``max_loras`` 0.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        dtype: torch.dtype,
        ops: Ops,
        attention: AttentionBackend,
        max_tokens: int,
        max_loras: int = 0,
        max_lora_rank: int = 0,
        parallel: Parallel | None = None,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.ops = ops
        self.max_tokens = max_tokens
        self.backend = attention
        self.parallel = parallel or Parallel()
        self.layers: dict[str, WeightLayer] = {}
        self.together: dict[str, StoredTogether] = {}
        self.row_orders: dict[str, Tensor] = {}
        self.transposed: set[str] = set()
        self.vectors: dict[str, VectorSlot] = {}
        self.biases: dict[str, BiasSlot] = {}
        self.ignored: list[str] = []
        self.further_layers: dict[str, int] = {}
        self.attention_layers: list[Attention] = []
        self.adapters = StackedAdapters(max_loras, max_lora_rank, ops, device, dtype) if max_loras else None

    def linear(
        self,
        parts: str | Mapping[str, int],
        in_features: int,
        out_features: int = 0,
        *,
        bias: Bias = False,
        cut: Cut | Side = None,
        transposed: bool = False,
        row_order: Tensor | None = None,
    ) -> Linear:
        """A linear layer, ``linear(name, in_features, out_features)``, or one whose parts are separate tensors in
        the checkpoint, ``linear({name: rows, …}, in_features)``.

        Args:
            in_features, out_features, rows: of the whole layer.
            cut: how several ranks share it; one rank has all of it, whatever this says. ``rows``: each has some of every
                part's, as :meth:`dovetail.nn.Parallel.channels` divides them. ``columns``: each has some, divided in
                the same way, and the ranks' products are added; so this is for what follows a layer that was cut by
                ``rows``. For other divisions (by heads, or by sections of what is stored as one), what this rank has.
                None: every rank has all of it, as is right for small layers such as routers.
            transposed: full-precision checkpoints store ``[in, out]``.
            row_order: int64 ``[rows]`` for a layer of one part whose checkpoints store the rows in another order: the
                layer's row ``i`` is the stored row ``row_order[i]``.
        """
        rows = {parts: out_features} if isinstance(parts, str) else parts
        shapes = {part: (count, in_features) for part, count in rows.items()}
        layer = Linear(shapes, self.parallel, self._own_part(cut, shapes))
        self._claim(layer, bias)
        if self.adapters is not None:
            local = layer.local_parts()
            columns = next(iter(local.values()))[1]
            layer.lora = self.adapters.add_layer({part: shape[0] for part, shape in local.items()}, columns, layer.cut)
        if transposed:
            self.transposed.update(layer.parts)
        if row_order is not None:
            (part,) = layer.parts
            self.row_orders[part] = row_order
        return layer

    def head_sections(self, name: str, sizes: Sequence[int], in_features: int, heads: HeadCut) -> HeadSections:
        """A weight that is multiplied head by head; see :class:`dovetail.nn.layers.HeadSections`.

        Args:
            sizes: rows of each section of a head; the weight has as many times their sum as there are heads.
            heads: which this rank has, from :meth:`dovetail.nn.Parallel.heads`.
        """
        rows = sum(sizes)
        own = RowCut({name: ((heads.q[0] * rows, heads.q[1] * rows),)}) if self.parallel.size > 1 else None
        layer = HeadSections(name, heads.total, sizes, in_features, self.dtype, self.parallel, own)
        self._claim(layer)
        return layer

    def head_stack(self, name: str, rows: int, columns: int, heads: HeadCut) -> HeadStack:
        """A matrix ``[rows, columns]`` of each head, stored as a stack; see :class:`dovetail.nn.layers.HeadStack`.

        Args:
            heads: which this rank has, from :meth:`dovetail.nn.Parallel.heads`.
        """
        layer = HeadStack(name, heads.total, rows, columns, self.dtype, self.parallel, heads.q)
        self._claim(layer)
        self.stored_together(name, [[part] for part in layer.parts], required=True)
        return layer

    def embedding(self, name: str, rows: int, columns: int, *, cut: bool = True) -> Embedding:
        """A table of ``rows`` vectors, which the ranks share unless ``cut`` is false or there are fewer than ranks."""
        layer = Embedding(name, rows, columns, self.parallel, self._vocabulary(name, rows) if cut else None)
        self._claim(layer)
        return layer

    def head(
        self,
        name: str,
        in_features: int,
        out_features: int,
        *,
        tied: Embedding | None = None,
        bias: Bias = False,
        softcap: float | None = None,
        tokens: Sequence[int] = (),
        normalized: bool = False,
    ) -> Head:
        """The output head, cut by vocabulary. With ``tied`` it shares that table unless the checkpoint has a weight
        for it. ``softcap`` and ``normalized`` are as in :class:`dovetail.nn.Head`.

        Args:
            tokens: compute the logits of these tokens alone, in float32; empty for all.
        """
        cut = self._vocabulary(name, out_features)
        assert tied is None or (out_features, in_features) in tied.parts.values(), "a tied head has the table's shape"
        assert not (tokens and normalized), "the rows of single tokens count as they are"
        arguments = (name, in_features, out_features, tied, self.ops, softcap, self.parallel, cut)
        layer = TokenHead(tokens, *arguments) if tokens else Head(*arguments, normalized=normalized)
        self._claim(layer, bias)
        return layer

    def experts(
        self,
        names: Sequence[tuple[str, str, str]],
        channels: int,
        inner: int,
        top_k: int,
        *,
        activation: str | Activation = "silu",
        bias: Bias = False,
    ) -> Experts:
        """The experts of a layer, of which each rank has some, whole. :meth:`stored_together` says under which names checkpoints stack them.

        Args:
            names: of (gate, up, down) of each expert.
            top_k: experts of a token.
            activation: an operation of :mod:`dovetail.nn.ops` for gate, or a function of gate and up side by side.
            bias: gate, up and down have biases.

        Raises:
            UsageError: there are fewer experts than ranks.
        """
        if len(names) < self.parallel.size:
            raise UsageError(
                f"{len(names)} experts cannot be divided among {self.parallel.size} devices",
                f"use at most {len(names)} devices",
            )
        function = self.ops.activation(activation, gated=True) if isinstance(activation, str) else activation
        local = self.parallel.range(len(names))
        layer = Experts(names, channels, inner, top_k, function, self.parallel, local)
        self._claim(layer, bias)
        return layer

    def stored_together(
        self,
        name: str,
        parts: Sequence[str] | Sequence[Sequence[str]],
        *,
        required: bool = False,
        alternating: bool = False,
        transposed: bool = False,
    ) -> None:
        """Weights that checkpoints may store as one, or as one stack of experts ``[E, N, K]``; the arguments are those
        of :class:`StoredTogether`. The parts are those of layers that were made before, and their biases are then
        stored together, too: as ``<name>.bias``, or ``<name>_bias`` of a stack (``[E, N]``). There may be several
        names for the same parts; a checkpoint has one of them.

        Args:
            transposed: full-precision checkpoints store ``[K, N]``, or ``[E, K, N]``.
        """
        stacked = not isinstance(parts[0], str)
        groups = tuple(tuple(group) for group in parts) if stacked else (tuple(map(str, parts)),)
        self.together[name] = StoredTogether(groups, stacked, required, alternating)
        if transposed:
            self.transposed.add(name)

    def norm(
        self,
        name: str,
        channels: int,
        eps: float,
        *,
        kind: Literal["rms", "layer"] = "rms",
        bias: bool = False,
        offset: float = 0.0,
        wide: bool = False,
        cut: Range | None = None,
    ) -> Norm:
        """A norm over the last dimension.

        Args:
            channels: of the whole norm.
            bias: of a layer norm, which has one more tensor then.
            offset: added to the stored scale, in the dtype in which that is applied.
            wide: the scale is applied in float32, before the result is rounded. Layer norms always do that.
            cut: the channels that this rank has, as many as any other, of a norm over those of all ranks (OLMo 2's norms
                of queries and keys). None for a norm of which every rank has all channels.

        Raises:
            UsageError: a layer norm is cut.
        """
        layer: Norm
        own: Range | None = None
        if cut is not None and self.parallel.size > 1:
            if kind == "layer":
                raise UsageError(
                    f"the layer norm {name} over the channels of all devices cannot be divided", "use one device"
                )
            layer, own = CutRMSNorm(self.ops, eps, self.parallel), cut
        else:
            layer = RMSNorm(self.ops, eps) if kind == "rms" else LayerNorm(self.ops, eps)
        dtype = torch.float32 if wide or kind == "layer" else None

        def assign(value: Tensor) -> None:
            value = value if own is None else value[slice(*own)].clone()
            layer.weight = value + offset if offset else value

        self.vector(f"{name}.weight", (channels,), assign, dtype=dtype)
        if bias:
            assert kind == "layer", "an RMS norm has no bias"
            self.vector(f"{name}.bias", (channels,), lambda value: setattr(layer, "bias", value), dtype=dtype)
        return layer

    def attention(
        self,
        spec: AttentionSpec,
        *,
        source: Attention | None = None,
        sinks: str | None = None,
        cut: HeadCut | None = None,
    ) -> Attention:
        """An attention layer.

        Args:
            spec: of this rank's heads.
            source: the layer whose cache it reads, for ``shared_cache``.
            sinks: checkpoint name of the sinks of all heads, for a spec with them.
            cut: this rank's heads, from :meth:`dovetail.nn.Parallel.heads`; None if every rank has all of them.
        """
        assert spec.sinks == (sinks is not None), "a spec with sinks comes with the name of their tensor"
        layer = Attention(spec, self.backend, source)
        self.attention_layers.append(layer)
        if sinks is not None:
            total, own = (spec.num_heads, (0, spec.num_heads)) if cut is None else (cut.total, cut.q)
            self.vector(
                sinks,
                (total,),
                lambda value: setattr(layer, "sinks", value[slice(*own)].contiguous()),
                dtype=torch.float32,
            )
        return layer

    def op(self, name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
        """An operation that the model's own package adds; see :meth:`dovetail.nn.Ops.find`."""
        return self.ops.find(name, reference)

    def vector(
        self,
        name: str,
        shape: tuple[int, ...],
        assign: Assign,
        *,
        required: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Require a plain tensor by its full checkpoint name; the arguments are those of :class:`VectorSlot`."""
        assert name not in self.vectors, f"{name} is expected twice"
        self.vectors[name] = VectorSlot(shape, assign, required, dtype)

    def ignore(self, *endings: str) -> None:
        """Ignore checkpoint tensors whose names end with one of these, such as buffers that old checkpoints saved
        although the model computes them.
        """
        self.ignored += endings

    def ignore_layers(self, name: str, first: int) -> None:
        """Ignore checkpoint tensors of the layers ``<name>.<number>`` from number ``first`` on, such as those that
        predict further tokens.
        """
        self.further_layers[name] = first

    def _vocabulary(self, name: str, rows: int) -> Cut:
        # What has fewer rows than ranks (types of tokens) is small enough for each to have it.
        return RowCut({name: (self.parallel.channels(rows),)}) if 1 < self.parallel.size <= rows else None

    def _own_part(self, cut: Cut | Side, shapes: Mapping[str, tuple[int, int]]) -> Cut:
        if self.parallel.size == 1:
            return None
        if cut == "rows":
            return RowCut({part: (self.parallel.channels(rows),) for part, (rows, _) in shapes.items()})
        if cut == "columns":
            ((_, columns),) = shapes.values()
            return ColumnCut((self.parallel.channels(columns),))
        if isinstance(cut, RowCut):
            assert cut.ranges.keys() <= shapes.keys(), f"cuts of parts that {', '.join(shapes)} does not have"
        return cut

    def _claim(self, layer: WeightLayer, bias: Bias = False) -> None:
        for part in layer.parts:
            assert part not in self.layers, f"{part} is expected twice"
            self.layers[part] = layer
            if bias:
                self.biases[f"{part}.bias"] = BiasSlot(layer, part, required=bias is True)

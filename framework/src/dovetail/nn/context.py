"""The context that a model is built with: the Plan's decisions behind a few factory methods.

Every factory takes checkpoint names. So the layers themselves define which checkpoint tensors the model needs, and the
two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dovetail.nn.attention import Attention, AttentionBackend, AttentionSpec
from dovetail.nn.layers import Embedding, Head, Linear, RMSNorm, WeightLayer
from dovetail.nn.lora import StackedAdapters
from dovetail.nn.ops import Ops

Assign = Callable[[Tensor], None]
Bias = bool | Literal["optional"]
"""Whether a layer has a bias; ``optional``: if the checkpoint has one, decided for each part."""


@dataclass(frozen=True)
class VectorSlot:
    """A plain tensor that a model expects (a norm's scale, a bias).

    Attributes:
        shape: as the checkpoint must have it.
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


class Context:
    """The factories.

    Attributes:
        device, dtype: of activations.
        ops: the platform's operations.
        max_tokens: the longest sequence that will be run.
        layers: checkpoint name of a weight (without its last component) → its layer.
        vectors: checkpoint name of a plain tensor → where it goes.
        ignored: endings of names of tensors that the model ignores.
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
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.ops = ops
        self.max_tokens = max_tokens
        self.backend = attention
        self.layers: dict[str, WeightLayer] = {}
        self.vectors: dict[str, VectorSlot] = {}
        self.biases: dict[str, BiasSlot] = {}
        self.ignored: list[str] = []
        self.attention_layers: list[Attention] = []
        self.adapters = StackedAdapters(max_loras, max_lora_rank, ops, device, dtype) if max_loras else None

    def linear(
        self, parts: str | Mapping[str, int], in_features: int, out_features: int = 0, *, bias: Bias = False
    ) -> Linear:
        """A linear layer, ``linear(name, in_features, out_features)``, or one whose parts are separate tensors in
        the checkpoint, ``linear({name: rows, …}, in_features)``.
        """
        layer = Linear({parts: out_features} if isinstance(parts, str) else parts, in_features)
        self._claim(layer)
        if self.adapters is not None:
            layer.lora = self.adapters.add_layer(layer.parts, in_features)
        if bias:
            for part in layer.parts:
                self.biases[f"{part}.bias"] = BiasSlot(layer, part, required=bias is True)
        return layer

    def embedding(self, name: str, rows: int, columns: int) -> Embedding:
        layer = Embedding({name: rows}, columns)
        self._claim(layer)
        return layer

    def head(self, name: str, in_features: int, out_features: int, *, tied: Embedding | None = None) -> Head:
        """The output head. With ``tied`` it shares that table unless the checkpoint has a weight for it."""
        layer = Head({name: out_features}, in_features, tied)
        self._claim(layer)
        return layer

    def norm(self, name: str, channels: int, eps: float) -> RMSNorm:
        layer = RMSNorm(self.ops, eps)
        self.vector(f"{name}.weight", (channels,), lambda value: setattr(layer, "weight", value))
        return layer

    def attention(self, spec: AttentionSpec) -> Attention:
        layer = Attention(spec, self.backend)
        self.attention_layers.append(layer)
        return layer

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

    def _claim(self, layer: WeightLayer) -> None:
        for part in layer.parts:
            assert part not in self.layers, f"{part} is expected twice"
            self.layers[part] = layer

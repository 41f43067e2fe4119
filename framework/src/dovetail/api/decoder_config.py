"""The configuration that nearly all decoders share: heads, activation, windows, layer types and rotary embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeGuard

from pydantic import BeforeValidator, Field, model_validator

from dovetail.api.bounds import MAX_HEAD_DIM, MAX_LAYERS, HeadCount, HeadDim, Positions, Size
from dovetail.api.cards import AttentionFeature
from dovetail.api.config import AttentionRequirement, ModelConfig
from dovetail.api.rope import LayerType, RopeParameters, read_rope, scaled_length
from dovetail.api.text import quote_foreign

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_quick": "gelu_quick",
    "quick_gelu": "gelu_quick",
    "relu": "relu",
    "relu2": "relu2",
    "relu_squared": "relu2",
}
"""Name in a file → name here. Functions that only differ in how they are rounded have one name."""


def _read_activation(name: Any) -> Any:
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"wanted one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


Activation = Annotated[
    Literal["silu", "gelu", "gelu_tanh", "gelu_quick", "relu", "relu2"], BeforeValidator(_read_activation)
]
"""The function between the two products of an MLP: ``gelu`` with the error function, ``gelu_tanh`` with its
approximation, ``gelu_quick`` with ``x * sigmoid(1.702 * x)``, ``relu2`` the square of ``relu``.
"""

WINDOW_RULES = ("use_sliding_window", "max_window_layers", "sliding_window_pattern")
"""Keys that say which layers have a window, where there are no ``layer_types``."""
WINDOW_KEYS = ("sliding_window", "layer_types", *WINDOW_RULES)
"""Keys of windows, for ``unread`` of models that have none."""

FEATURES: dict[str, AttentionFeature] = {"chunked_attention": "chunked", "linear_attention": "recurrent"}
"""Layer type → feature of attention, of those for which the window does not decide."""


class DecoderConfig(ModelConfig):
    """Configuration of a decoder with multi-head attention and an MLP. A model's own class adds its other keys, and
    refuses what it does not support.

    Besides ``aliases``, a model's class may set these class attributes:

    - ``supported_layer_types``: the values of ``layer_types`` that its layers implement. Others are refused.

    - ``rotary``: False for models without rotary embeddings. Then ``rope`` is empty.

    - ``rope_defaults``: parameters of the rotary embedding where the file is silent, in the form of
      ``rope_parameters``: ``{"rope_theta": 1e6}``, or an object for each layer type.

    - ``partial_rotary``: False for models whose heads are rotated whole. Another factor is refused then.

    - ``bidirectional``: True for models whose layers may also see the tokens after (``is_causal`` of false). Others refuse
      it.

    - ``one_rope``: True for models whose layers all have the same rotary embedding. Several are refused then.

    - ``rope_by_type``: True for models whose ``rope_parameters`` are an object for each layer type. What does not say of
      which layers it is is refused, and what their original reads otherwise in such objects: a scaling that only has a
      ``type``, and a ``truncate`` of false.

    - ``rope_mscales``: True for models that follow ``short_mscale`` and ``long_mscale`` of a ``longrope``. Others refuse
      them.

    - ``rope_tensors``: True for models that read the lists of a ``longrope`` without them from the checkpoint
      (:meth:`dovetail.nn.Decoder.expect_rope_factors`). For others its lists are required.
    """

    aliases: ClassVar[Mapping[str, str]] = {
        "n_head": "num_attention_heads",
        "n_heads": "num_attention_heads",
        "num_heads": "num_attention_heads",
        "num_kv_heads": "num_key_value_heads",
        "n_inner": "intermediate_size",
        "ffn_dim": "intermediate_size",
        "ffn_hidden_size": "intermediate_size",
        "hidden_activation": "hidden_act",
        "activation_function": "hidden_act",
    }
    supported_layer_types: ClassVar[tuple[LayerType, ...]] = ("full_attention", "sliding_attention")
    rotary: ClassVar[bool] = True
    rope_defaults: ClassVar[Mapping[str, Any]] = {}
    if_null: ClassVar[Mapping[str, Any]] = {"is_causal": False}
    bidirectional: ClassVar[bool] = False
    partial_rotary: ClassVar[bool] = True
    one_rope: ClassVar[bool] = False
    rope_by_type: ClassVar[bool] = False
    rope_mscales: ClassVar[bool] = False
    rope_tensors: ClassVar[bool] = False

    num_attention_heads: HeadCount
    num_key_value_heads: HeadCount
    """As many as query heads, where the file has none."""
    head_dim: HeadDim
    """``hidden_size / num_attention_heads``, where the file has none."""
    intermediate_size: Size
    """Rows of the MLP's first product."""
    hidden_act: Activation = "silu"
    """``silu``, ``gelu``, ``gelu_tanh``, ``gelu_quick``, ``relu`` or ``relu2``, whatever the file calls it."""
    sliding_window: Positions | None = None
    """Tokens that a layer with a window sees, its own included. None where ``use_sliding_window`` is false."""
    layer_types: tuple[str, ...] = Field(default=(), strict=False, max_length=MAX_LAYERS)
    """One for each layer. Where the file has none, all layers are ``sliding_attention`` if there is a window, and
    ``full_attention`` otherwise; with ``sliding_window_pattern`` n, every nth layer is full, and with
    ``use_sliding_window``, the first ``max_window_layers`` are.
    """
    is_causal: bool = True
    """False if every token sees the whole text."""
    rope: dict[str, RopeParameters] = {}
    """Layer type → its rotary embedding; ``""`` for all types that are not a key. :func:`read_rope` makes it of what
    files have.
    """

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        """See :meth:`ModelConfig.prepare`: completes the fields that have no default in files, and reads ``rope``. A
        subclass sets what decides these before it calls this.
        """
        for key in ("num_key_value_heads", "head_dim", "sliding_window"):
            if type(data.get(key)) is int and data[key] == 0:  # as some files write none
                del data[key]
        if data.get("use_sliding_window") is False:
            data.pop("sliding_window", None)
        heads, hidden = data.get("num_attention_heads"), data.get("hidden_size")
        if heads is None or hidden is None:  # which is told, and not what would follow from them
            return {**data, "num_key_value_heads": 1, "head_dim": 2, "rope": {}}
        data.setdefault("num_key_value_heads", heads)
        # Of nonsense there is nothing to divide; the fields themselves say what is wrong with it.
        if "head_dim" not in data and _is_count(heads) and _is_count(hidden):
            if hidden % heads:
                raise ValueError(
                    f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and there is no head_dim"
                )
            data["head_dim"] = hidden // heads
        if "layer_types" not in data:  # of a number of layers that makes no sense, there are none
            layers = data.get("num_hidden_layers")
            data["layer_types"] = ()
            if _is_count(layers) and layers <= MAX_LAYERS:
                data["layer_types"] = tuple(cls.usual_layer_types(data, layers))
        types = data["layer_types"]
        named = isinstance(types, (list, tuple)) and all(isinstance(kind, str) for kind in types)
        head_dim = data.get("head_dim")
        readable = cls.rotary and named and _is_count(head_dim) and head_dim <= MAX_HEAD_DIM
        if cls.rope_by_type:
            _check_types_of_rope(data)
        data["rope"] = read_rope(data, types, cls.rope_defaults) if readable else {}
        return data

    @classmethod
    def usual_layer_types(cls, data: Mapping[str, Any], layers: int) -> Iterable[str]:
        """The layer types of a file without ``layer_types``; see there. A model with other rules overrides this.

        Args:
            data: as in :meth:`prepare`.
            layers: their number.

        Raises:
            ValueError: a value that decides them is not supported.
        """
        if data.get("sliding_window") is None:
            return ("full_attention",) * layers
        full, pattern = (_whole(data, key) for key in ("max_window_layers", "sliding_window_pattern"))
        if data.get("use_sliding_window") is not True:
            full = 0
        return tuple(
            "full_attention" if layer < full or (pattern and (layer + 1) % pattern == 0) else "sliding_attention"
            for layer in range(layers)
        )

    @model_validator(mode="after")
    def _check_decoder(self) -> DecoderConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}"
            )
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types has {len(self.layer_types)} entries, wanted one for each of {self.num_hidden_layers} layers"
            )
        for layer, kind in enumerate(self.layer_types):
            if kind not in self.supported_layer_types:
                raise ValueError(
                    f"layer {layer} is of the type {quote_foreign(kind)}, which is not supported, only {', '.join(self.supported_layer_types)}"
                )
        if "sliding_attention" in self.layer_types and self.sliding_window is None:
            raise ValueError("layer_types has 'sliding_attention', and there is no sliding_window")
        if not self.is_causal and not self.bidirectional:
            raise ValueError("is_causal is false, which is not supported, only causal attention")
        if self.one_rope and len(set(self.rope.values())) > 1:
            raise ValueError("rotary embeddings that differ between layers are not supported")
        for rope in self.rope.values():
            self._check_rope(rope)
        return self

    def _check_rope(self, rope: RopeParameters) -> None:
        if not self.partial_rotary and rope.partial_rotary_factor != 1.0:
            raise ValueError(f"partial_rotary_factor {rope.partial_rotary_factor} is not supported, only 1")
        if rope.rope_type == "longrope" and rope.long_factor is None and not self.rope_tensors:
            raise ValueError("the rotary embedding of the type 'longrope' lacks long_factor and short_factor")
        if self.rope_by_type and not rope.truncate:
            raise ValueError("truncate of the rotary embedding is false, which is not supported, only true")
        if not self.rope_mscales and (rope.short_mscale, rope.long_mscale) != (None, None):
            raise ValueError("short_mscale and long_mscale of the rotary embedding are not supported")
        channels = _rotated(self.head_dim, rope)
        if channels == 0 or channels % 2:
            part = f" times the partial_rotary_factor {rope.partial_rotary_factor}" if channels != self.head_dim else ""
            raise ValueError(
                f"head_dim {self.head_dim}{part} is {channels} channels, wanted an even number: rotary embeddings turn pairs"
            )
        if rope.rope_type == "dynamic" and channels == 2:
            raise ValueError(
                "a rotary embedding of the type 'dynamic' has 2 channels, wanted more: it scales those between"
            )
        for key, divisors in (("long_factor", rope.long_factor), ("short_factor", rope.short_factor)):
            if divisors is not None and len(divisors) != channels // 2:
                raise ValueError(
                    f"{key} has {len(divisors)} numbers, wanted {channels // 2}: one for each pair of channels"
                )

    def has_rope(self, layer: int) -> bool:
        """Whether a layer has a rotary embedding. By default those whose type has one in ``rope``."""
        return bool({self.layer_types[layer], ""} & set(self.rope))

    def rope_for(self, layer: int) -> RopeParameters:
        """The rotary embedding of a layer.

        Raises:
            KeyError: it has none.
        """
        kind = self.layer_types[layer]
        return self.rope[kind if kind in self.rope else ""]

    def rotary_dim(self, layer: int) -> int:
        """How many channels of each head are rotated, an even number."""
        return _rotated(self.head_dim, self.rope_for(layer))

    def window(self, layer: int) -> int | None:
        """The window of a layer, in tokens, or None if it sees the whole context: it has no window, or one that is not
        shorter than the longest context.
        """
        shorter = self.layer_types[layer] == "sliding_attention" and self.sliding_window is not None
        return self.sliding_window if shorter and (self.sliding_window or 0) < self.longest_context() else None

    def slopes(self) -> tuple[float, ...] | None:
        """How much each head's scores fall with distance, for a model with ALiBi (:func:`dovetail.api.alibi_slopes`), which
        overrides this; None for others.
        """
        return None

    def context_length(self) -> int:
        """A scaling with its original length is served completely, whatever max_position_embeddings says."""
        named = any(rope.original_max_position_embeddings for rope in self.rope.values())
        return self.longest_context() if named else self.max_position_embeddings

    def longest_context(self) -> int:
        """The longest sequence that the RoPE scaling of any layer may have been made for."""
        lengths = [scaled_length(self.max_position_embeddings, rope) for rope in self.rope.values()]
        return max(lengths, default=self.max_position_embeddings)

    def attention_features(self, layer: int) -> frozenset[AttentionFeature]:
        """What a layer asks of the attention backend, from its type, window and :meth:`slopes`. A model whose layers ask
        for more, such as ``softcap``, adds that.
        """
        if (feature := FEATURES.get(self.layer_types[layer])) is not None:
            return frozenset({feature})
        found: set[AttentionFeature] = set()
        if self.window(layer) is not None:
            found.add("sliding")
        if self.slopes() is not None:
            found.add("alibi")
        return frozenset(found)

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        """One entry for each distinct kind of attention layer, from :meth:`attention_features`."""
        kinds = dict.fromkeys(map(self.attention_features, range(self.num_hidden_layers)))
        return tuple(AttentionRequirement(features=features, head_dim=self.head_dim) for features in kinds)


def _check_types_of_rope(data: Mapping[str, Any]) -> None:
    whole, scaling = data.get("rope_parameters"), data.get("rope_scaling")
    if isinstance(whole, Mapping) and whole and not any(isinstance(value, Mapping) for value in whole.values()):
        raise ValueError(
            "rope_parameters does not say of which layers it is: wanted an object for each of full_attention and sliding_attention"
        )
    if isinstance(scaling, Mapping) and "type" in scaling and "rope_type" not in scaling:
        raise ValueError("rope_scaling has a type and no rope_type, wanted rope_type")


def every_nth_full(n: Any, layers: int) -> tuple[LayerType, ...]:
    """The types of so many layers, of which every ``n``th sees the whole context and the others have a window.

    Raises:
        ValueError: n is no positive number of layers.
    """
    if type(n) is not int or n < 1:
        raise ValueError(f"sliding_window_pattern is {quote_foreign(n)}, wanted a positive number of layers")
    return tuple("sliding_attention" if (layer + 1) % n else "full_attention" for layer in range(layers))


def _whole(data: Mapping[str, Any], key: str) -> int:
    value = data.get(key, 0)
    if type(value) is not int or value < 0:
        raise ValueError(f"{key} is {quote_foreign(value)}, wanted a whole number, or layer_types")
    return value


def _rotated(head_dim: int, rope: RopeParameters) -> int:
    return int(head_dim * rope.partial_rotary_factor)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0

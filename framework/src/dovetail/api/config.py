"""The part of a model's configuration that Dovetail itself reads; each model adds more fields in a subclass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_serializer, model_validator

from dovetail.api.cards import APART, AttentionFeature

FACTOR_SCALINGS = ("linear", "dynamic", "yarn")
"""Values of ``rope_type`` whose ``factor`` is the factor of the context length. The factor of ``llama3`` is larger
than what its models were trained for.
"""

MAX_LAYERS, MAX_HEADS, MAX_HEAD_DIM, MAX_SIZE, MAX_POSITIONS = 10_000, 2**14, 2**14, 2**24, 2**27
"""Bounds of configurations, several times what any published model has (126 layers, 256 heads of 512, rows of 53,248
numbers, a vocabulary of 262,144, contexts of 10 million tokens). Whatever a configuration makes a model allocate before
its weights are compared with the files, it is little with these; and it is an error that names the key.
"""

LayerCount = Annotated[int, Field(gt=0, le=MAX_LAYERS)]
HeadCount = Annotated[int, Field(gt=0, le=MAX_HEADS)]
HeadDim = Annotated[int, Field(gt=0, le=MAX_HEAD_DIM)]
Size = Annotated[int, Field(gt=0, le=MAX_SIZE)]
"""Rows or columns of a weight: a vocabulary, a hidden size."""
Positions = Annotated[int, Field(gt=0, le=MAX_POSITIONS)]
"""Tokens: a context, a window."""
Epsilon = Annotated[float, Field(gt=0, lt=1)]
"""What a norm adds so that it does not divide by zero."""


def scaled_length(max_position: int, scaling: Mapping[str, Any]) -> int:
    """The longest sequence, in tokens, that a RoPE scaling was made for: its factor times the original length.

    Args:
        max_position: ``max_position_embeddings``. It is the original length if the scaling has no
            ``original_max_position_embeddings``. Some files have the length before scaling there and some the length
            after, and no key says which.
        scaling: the object under ``rope_scaling`` or ``rope_parameters``.
    """
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    original = scaling.get("original_max_position_embeddings") or max_position
    factor = scaling.get("factor") or 1
    longest = max(max_position, int(original * factor)) if kind in FACTOR_SCALINGS else max_position
    return min(longest, MAX_POSITIONS)


class AttentionRequirement(BaseModel):
    """What one group of layers requires of the attention backend.

    Without features it is causal attention over everything.
    """

    model_config = ConfigDict(frozen=True)

    features: frozenset[AttentionFeature] = frozenset()
    head_dim: int
    """Of queries and keys."""
    value_dim: int | None = None
    """Of values, where it is not ``head_dim``: with the feature ``value_dim`` or ``latent``."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for apart in APART:
            if self.features >= apart:
                raise ValueError(f"no layer is {' and '.join(sorted(apart))}")
        if self.values != self.head_dim and not self.features & {"value_dim", "latent"}:
            raise ValueError(
                f"value_dim is {self.value_dim} and head_dim {self.head_dim}, wanted the feature value_dim"
            )
        if self.values == self.head_dim and "value_dim" in self.features:
            raise ValueError("the feature value_dim is for values of another size than head_dim")
        return self

    @field_serializer("features")
    def _in_order(self, features: frozenset[AttentionFeature]) -> list[AttentionFeature]:
        return sorted(features)

    @property
    def values(self) -> int:
        """Channels of a value."""
        return self.head_dim if self.value_dim is None else self.value_dim


class ModelConfig(BaseModel):
    """Base of a model's configuration, read from ``config.json``.

    Fields without a default must be in the file. For the others, null means the default. Unknown keys are ignored,
    because published files have many that only describe training. Subclasses refuse values that they do not support by
    raising ``ValueError`` in a validator, and bound their counts and sizes with the types above.

    In all fields, those of subclasses too, a text or a boolean is no number, a number is neither infinite nor NaN, and
    nothing but true and false is a boolean.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=(), strict=True, allow_inf_nan=False)

    architectures: tuple[str, ...] = Field(default=(), strict=False)
    model_type: str = ""
    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: LayerCount
    max_position_embeddings: Positions = 2048
    tie_word_embeddings: bool = False
    dtype: str | None = Field(default=None, validation_alias=AliasChoices("dtype", "torch_dtype"))
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    quantization_config: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        required = {name for name, field in cls.model_fields.items() if field.is_required()}
        # Some writers of JSON know only one kind of number, and 4096.0 is as good a size as 4096.
        return {k: _integral(v) for k, v in data.items() if v is not None or k in required}

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        """One entry for each distinct kind of attention layer; their order does not matter. Subclasses must override this.
        A layer that asks for anything else is refused when the model is built.
        """
        raise NotImplementedError

    def context_length(self) -> int:
        """The longest sequence, in tokens, unless the user sets another length."""
        return self.max_position_embeddings

    def longest_context(self) -> int:
        """The longest sequence that a user may set. It is longer than :meth:`context_length` if a RoPE scaling may
        have been made for more than the files say (see :func:`scaled_length`).
        """
        return self.context_length()


def _integral(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value

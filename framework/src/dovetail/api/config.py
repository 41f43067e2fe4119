"""The part of a model's configuration that Dovetail itself reads; each model adds more fields in a subclass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, get_origin

from pydantic import ConfigDict, Field, field_serializer, model_validator

from dovetail.api.bounds import LayerCount, Positions, Size, TokenId, integral
from dovetail.api.cards import APART, AttentionFeature, PoolingType
from dovetail.api.documented import DocumentedModel
from dovetail.api.rope import ROPE_KEYS
from dovetail.api.text import quote_foreign

ALIASES = {
    "torch_dtype": "dtype",
    "n_embd": "hidden_size",
    "d_model": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers",
    "num_layers": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "n_ctx": "max_position_embeddings",
}
"""Key of an older file → field. Of several keys of one field, the first that the file has is read."""

OUTER_KEYS = (
    "architectures",
    "tie_word_embeddings",
    "quantization_config",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "dtype",
    "torch_dtype",
)
"""Keys that a text model's null leaves as they are in the whole model's configuration."""

TokenLabels = Literal["no_post_processing", "from_2_way_softmax"]
"""What the logits of tokens are to a classifier: those of a label each, or the logit of one label, the second token's, as
of two that exclude each other: its logit less the first one's, whose logistic function is the softmax over both.
"""


class AttentionRequirement(DocumentedModel):
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


class ModelConfig(DocumentedModel):
    """Base of a model's configuration, read from ``config.json``.

    Fields without a default must be in the file, and null is as if the key were not there. Unknown keys are ignored,
    because published files have many that only describe training. Subclasses refuse values that they do not support by
    raising ``ValueError`` in a validator, and bound their counts and sizes with the types of ``dovetail.api``
    (``LayerCount``, ``HeadCount``, ``HeadDim``, ``Size``, ``Positions``, ``Epsilon``).

    In all fields, those of subclasses too, a text or a boolean is no number, a number is neither infinite nor NaN, and
    nothing but true and false is a boolean.

    The configuration of a model that also sees or hears has the language model's part in ``text_config``. Its keys are
    read as if they stood at the top, and replace those of the whole model. The whole model's ``architectures`` stay; so
    do its ``tie_word_embeddings``, ``quantization_config``, token ids and dtype where the text model's are null, and all
    keys that the text model does not have.

    The class attribute ``aliases`` names keys of older files: key → field. A subclass names those that its models have
    besides; those of its bases stay. A value under the field's own name wins.

    The class attribute ``if_missing`` has values of keys that a file lacks, for models in whose files null means something
    else than no key. ``if_null`` has those of keys that are null, where null is another value than the default; those of
    its bases stay.

    The class attribute ``unread`` names keys that mean something to other models and nothing to this one. They are as if
    the file did not have them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=(), strict=True, allow_inf_nan=False)

    aliases: ClassVar[Mapping[str, str]] = ALIASES
    if_missing: ClassVar[Mapping[str, Any]] = {}
    if_null: ClassVar[Mapping[str, Any]] = {}
    unread: ClassVar[tuple[str, ...]] = ()

    architectures: tuple[str, ...] = Field(default=(), strict=False)
    model_type: str = ""
    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: LayerCount
    max_position_embeddings: Positions = 2048
    tie_word_embeddings: bool = False
    dtype: str | None = None
    """Of the weights, without ``torch.``."""
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    quantization_config: dict[str, Any] | None = None
    num_labels: Size = 2
    """Of a classifier; the size of ``id2label`` where the file has that and not this. With tokens for labels, as many as
    there are, or 1 with ``from_2_way_softmax``.
    """
    classifier_from_token: tuple[str, ...] = Field(default=(), strict=False)
    """Of a classifier that has no head of its own: the tokens, as the vocabulary spells them, whose logits in the language
    model's head are those of the labels.
    """
    classifier_token_ids: tuple[TokenId, ...] = Field(default=(), strict=False)
    """The ids of these tokens. The engine asks the tokenizer for them."""
    classifier_method: TokenLabels = "no_post_processing"
    """What the logits of these tokens are. ``method`` in files; ``from_2_way_softmax`` where
    ``is_original_qwen3_reranker`` is true.
    """

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        text = data.get("text_config")
        if text is not None and not isinstance(text, dict):
            raise ValueError(f"text_config is {quote_foreign(text)}, wanted an object")
        aliases: dict[str, str] = {}
        for base in cls.__mro__:  # the most special class first
            aliases = {**aliases, **{k: v for k, v in vars(base).get("aliases", {}).items() if k not in aliases}}
        nulls: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            nulls |= vars(base).get("if_null", {})
        merged = {k: v for k, v in merge_text_config(data, aliases).items() if k not in cls.unread}
        read = {k: integral(nulls.get(k) if v is None else v) for k, v in merged.items()}
        read = {k: v for k, v in read.items() if v is not None}
        for key, field in aliases.items():
            if key in read and key not in cls.model_fields:
                read.setdefault(field, read[key])
        given = {aliases.get(key, key) for key in merged} | merged.keys()
        read |= {key: value for key, value in cls.if_missing.items() if key not in given}
        if isinstance(dtype := read.get("dtype"), str):
            read["dtype"] = dtype.removeprefix("torch.")
        if isinstance(labels := read.get("id2label"), dict) and labels:
            read.setdefault("num_labels", len(labels))
        _read_token_labels(read)
        prepared: Any = cls.prepare(read)
        if not isinstance(prepared, dict):  # no fault of the file, as a ValueError would be
            raise TypeError(f"{cls.__name__}.prepare() returned {type(prepared).__name__}, wanted the dict of keys")
        for name, info in cls.model_fields.items():  # JSON has lists alone
            annotation: Any = info.annotation
            if get_origin(annotation) is tuple and isinstance(prepared.get(name), list):
                prepared[name] = tuple(prepared[name])
        return prepared

    @model_validator(mode="after")
    def _check_token_labels(self) -> Self:
        names, ids = self.classifier_from_token, self.classifier_token_ids
        if names and ids and len(names) != len(ids):
            raise ValueError(f"classifier_from_token has {len(names)} entries and classifier_token_ids {len(ids)}")
        if self.classifier_method == "from_2_way_softmax" and (count := len(names or ids)) not in (0, 2):
            raise ValueError(f"the method 'from_2_way_softmax' is of two tokens, found {count}")
        if ids and max(ids) >= self.vocab_size:
            raise ValueError(f"classifier_token_ids has {max(ids)}, and the vocabulary has {self.vocab_size} tokens")
        return self

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Complete the keys of a file before they are read as fields: what follows from other keys, and what the
        model's files leave out. Subclasses that override it call ``super().prepare``.

        Args:
            data: the file's keys, which may be changed: ``text_config`` merged, aliases under the fields' names, no
                nulls. Their types are not checked yet.

        Raises:
            ValueError: a value is not supported.
        """
        return data

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        """One entry for each distinct kind of attention layer; their order does not matter. Subclasses must override this.
        A layer that asks for anything else is refused when the model is built.
        """
        raise NotImplementedError

    def pooling(self) -> PoolingType | None:
        """How hidden states become one vector, where the configuration says it; None for the card's way."""
        return None

    def context_length(self) -> int:
        """The longest sequence, in tokens, unless the user sets another length."""
        return self.max_position_embeddings

    def longest_context(self) -> int:
        """The longest sequence that a user may set. It is longer than :meth:`context_length` if a RoPE scaling may
        have been made for more than the files say (see :func:`scaled_length`).
        """
        return self.context_length()


def _read_token_labels(data: dict[str, Any]) -> None:
    """Complete the keys of a classifier whose labels are tokens."""
    tokens = data.get("classifier_from_token") or data.get("classifier_token_ids")
    two_way = data.get("is_original_qwen3_reranker") is True
    if not tokens:
        if two_way:
            raise ValueError(
                'is_original_qwen3_reranker is true and there is no classifier_from_token, wanted ["no", "yes"]'
            )
        return
    usual = "from_2_way_softmax" if two_way else "no_post_processing"
    method = data.setdefault("classifier_method", data.get("method", usual))
    if isinstance(tokens, (list, tuple)):
        data["num_labels"] = 1 if method == "from_2_way_softmax" else len(tokens)


def merge_text_config(data: Mapping[str, Any], aliases: Mapping[str, str] = ALIASES) -> dict[str, Any]:
    """A configuration with the keys of its ``text_config`` at the top, as :class:`ModelConfig` describes. The whole
    model's ``architectures`` stay, because they say what the checkpoint is.

    Args:
        data: as in ``config.json``; returned as it is if it has no ``text_config``.
        aliases: other names of keys, so that the text model's value also replaces one of another name.
    """
    text = data.get("text_config")
    if not isinstance(text, Mapping):
        return dict(data)
    given = {key for key, value in text.items() if value is not None}
    replaced = {"text_config"} | {aliases[key] for key in given if key in aliases}
    if given & set(ROPE_KEYS):  # which only mean something together
        replaced |= set(ROPE_KEYS)
    outer = {key: value for key, value in data.items() if key not in replaced}
    kept = {key: outer[key] for key in OUTER_KEYS if key not in given and outer.get(key) is not None}
    if outer.get("architectures"):
        kept["architectures"] = outer["architectures"]
    return {**outer, **text, **kept}

"""The part of a model's configuration that Dovetail itself reads; each model adds the rest in a subclass."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from dovetail.api.cards import AttentionKind


class AttentionRequirement(BaseModel):
    """What one group of a model's layers asks of an attention backend."""

    model_config = ConfigDict(frozen=True)

    kind: AttentionKind = "full"
    head_dim: int


class ModelConfig(BaseModel):
    """Base of a model's configuration, read from ``config.json``.

    Fields without a default must be in the file; unknown keys are ignored, since published files hold many that only
    describe training. Subclasses refuse values they cannot honour by raising ``ValueError`` in a validator.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    architectures: tuple[str, ...] = ()
    model_type: str = ""
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    max_position_embeddings: int = Field(default=2048, gt=0)
    tie_word_embeddings: bool = False
    dtype: str | None = Field(default=None, validation_alias=AliasChoices("dtype", "torch_dtype"))
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    quantization_config: dict[str, Any] | None = None

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        """One entry for each distinct kind of attention layer. Subclasses must override this."""
        raise NotImplementedError

    def context_length(self) -> int:
        """The longest sequence, in tokens, that the model was made for."""
        return self.max_position_embeddings

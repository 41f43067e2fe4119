"""What scripts ask of a model's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self

from dovetail.kernel.plan import Plan


@dataclass(frozen=True)
class ModelConfig:
    """What runs, in a few names.

    Attributes:
        model: as it was named.
        tokenizer: the file or folder that the tokenizer comes from.
        max_model_len: tokens of the longest sequence, prompt and output together.
        dtype: of computations, by its name in torch.
        hf_config: the entries of the model's ``config.json``, as attributes.
    """

    model: str
    tokenizer: str
    max_model_len: int
    dtype: str
    vocab_size: int
    hidden_size: int
    hf_config: Any = field(repr=False)

    @classmethod
    def from_plan(cls, plan: Plan, max_model_len: int) -> Self:
        """
        Args:
            max_model_len: as memory allowed it.
        """
        own = plan.build_model_config()
        return cls(
            plan.model,
            plan.checkpoint.tokenizer_path,
            max_model_len,
            plan.dtype,
            own.vocab_size,
            own.hidden_size,
            SimpleNamespace(**plan.config),
        )

    def get_vocab_size(self) -> int:
        """Token ids are 0 to one less than this."""
        return self.vocab_size

    def get_hidden_size(self) -> int:
        return self.hidden_size

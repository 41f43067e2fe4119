"""A model's configuration, as scripts for vLLM read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self

from dovetail.kernel.plan import Plan


@dataclass(frozen=True)
class ModelConfig:
    """The main facts about the running model.

    Attributes:
        model: as the user named it.
        tokenizer: the file or folder of the tokenizer.
        max_model_len: maximum sequence length in tokens, prompt and output together.
        dtype: of computations, as torch's name.
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
        """Make it from a Plan.

        Args:
            max_model_len: after it was reduced to fit memory.
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
        """Size of the vocabulary. Token ids are 0 to one less."""
        return self.vocab_size

    def get_hidden_size(self) -> int:
        return self.hidden_size

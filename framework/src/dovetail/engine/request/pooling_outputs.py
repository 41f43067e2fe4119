"""Results of a pooling request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Out = TypeVar("Out")


@dataclass(slots=True)
class PoolingRequestOutput(Generic[Out]):
    """A prompt and its result.

    Attributes:
        num_cached_tokens: prompt tokens that were found in the prefix cache.
    """

    request_id: str
    outputs: Out
    prompt_token_ids: list[int]
    num_cached_tokens: int = 0
    finished: bool = True


@dataclass(slots=True)
class PoolingOutput:
    """
    Attributes:
        data: float32 tensor ``[D]`` on the host.
    """

    data: Any


@dataclass(slots=True)
class EmbeddingOutput:
    """One embedding."""

    embedding: list[float]

    @property
    def hidden_size(self) -> int:
        return len(self.embedding)

    def __repr__(self) -> str:
        return f"EmbeddingOutput(hidden_size={self.hidden_size})"


@dataclass(slots=True)
class ClassificationOutput:
    """One probability for each label, or logits if those were requested."""

    probs: list[float]

    @property
    def num_classes(self) -> int:
        return len(self.probs)


@dataclass(slots=True)
class ScoringOutput:
    """The score of a pair of texts."""

    score: float


class EmbeddingRequestOutput(PoolingRequestOutput[EmbeddingOutput]):
    """A prompt and its embedding."""


class ClassificationRequestOutput(PoolingRequestOutput[ClassificationOutput]):
    """A prompt and its labels' probabilities."""


class ScoringRequestOutput(PoolingRequestOutput[ScoringOutput]):
    """Two texts and their score."""

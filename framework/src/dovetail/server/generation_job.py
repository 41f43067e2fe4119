"""A generation job: the prompts and sampling parameters of one request."""

from __future__ import annotations

from dataclasses import dataclass

from dovetail.engine.messages import ImageInput
from dovetail.engine.request.params import BeamSearchParams, SamplingParams


@dataclass(frozen=True)
class Job:
    """Prompts that are continued with the same parameters.

    Attributes:
        id: unique; the engine's request ids are derived from it.
        scoring: only the prompts' logprobs are returned. The engine generates at least one token, which is dropped.
        beams: the beam search that makes the choices, if they are not sampled.
        images: of the prompt, which is the only one then; None for none.
    """

    id: str
    prompts: list[list[int]]
    params: SamplingParams
    priority: int = 0
    cache_salt: str | None = None
    adapter: str | None = None
    scoring: bool = False
    beams: BeamSearchParams | None = None
    images: list[ImageInput] | None = None

    @property
    def num_choices(self) -> int:
        return len(self.prompts) * self.params.n

    @property
    def num_sequences(self) -> int:
        """Number of sequences that the engine runs for the job. It may be larger than the number of choices."""
        return len(self.prompts) * self.params.num_sequences

    @property
    def num_prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    def prompt_for(self, choice: int) -> list[int]:
        return self.prompts[choice // self.params.n]

"""A generation job: what a request asks of the engine."""

from __future__ import annotations

from dataclasses import dataclass

from dovetail.engine.request.params import BeamSearchParams, SamplingParams


@dataclass(frozen=True)
class Job:
    """Prompts to continue, all in one way.

    Attributes:
        id: one of a kind; the engine knows the job's sequences by it.
        scoring: only the prompts' logprobs are wanted. The engine makes one token at least, which is then dropped.
        beams: the search that makes the choices, if they are not sampled.
    """

    id: str
    prompts: list[list[int]]
    params: SamplingParams
    priority: int = 0
    cache_salt: str | None = None
    adapter: str | None = None
    scoring: bool = False
    beams: BeamSearchParams | None = None

    @property
    def num_choices(self) -> int:
        return len(self.prompts) * self.params.n

    @property
    def num_sequences(self) -> int:
        """What the engine runs for it, which may be more than is given back."""
        return len(self.prompts) * self.params.num_sequences

    @property
    def num_prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    def prompt_for(self, choice: int) -> list[int]:
        return self.prompts[choice // self.params.n]

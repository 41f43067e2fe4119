"""What ``--speculative-config`` may say of prompt lookup."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEFAULT_MAX, DEFAULT_MIN = 4, 2
"""In source code, two equal tokens as a reason to guess give 1.18 tokens a step, one 1.12 and three 1.13; longer ends than 4 make no difference."""


class LookupConfig(BaseModel):
    """Sizes of the end of a sequence that is looked for in what came before.

    Attributes:
        prompt_lookup_max: the longest end that makes a difference: among places with so many equal tokens, the latest wins.
        prompt_lookup_min: a shorter one is no reason to guess.

    Where only one is given, the other is its default, or the same if that would contradict it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt_lookup_max: int = Field(default=DEFAULT_MAX, ge=1, le=64)
    prompt_lookup_min: int = Field(default=DEFAULT_MIN, ge=1, le=64)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: dict[str, object]) -> dict[str, object]:
        low, high = data.get("prompt_lookup_min"), data.get("prompt_lookup_max")
        if high is None and isinstance(low, int):
            return {**data, "prompt_lookup_max": max(low, DEFAULT_MAX)}
        if low is None and isinstance(high, int):
            return {**data, "prompt_lookup_min": max(1, min(high, DEFAULT_MIN))}
        return data

    @model_validator(mode="after")
    def _ordered(self) -> LookupConfig:
        if self.prompt_lookup_min > self.prompt_lookup_max:
            raise ValueError(
                f"prompt_lookup_min is {self.prompt_lookup_min}, more than prompt_lookup_max, {self.prompt_lookup_max}"
            )
        return self

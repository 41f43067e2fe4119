"""What a request may say to the processor. Read before a request is queued, so it must not import torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PLUGIN_CLASSArguments(BaseModel):
    """Which token is forbidden.

    Attributes:
        token: its id.
        after: only once the output has so many tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: int = Field(default=0, ge=0)
    after: int = Field(default=0, ge=0)

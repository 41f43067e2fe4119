"""What ``--speculative-config`` may say of this method. Read before anything is chosen, so it must not import torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PLUGIN_CLASSConfig(BaseModel):
    """How much of a sequence counts.

    Attributes:
        memory: how many of its newest tokens are looked at.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory: int = Field(default=1000, gt=0)

"""What the tests of several clients ask for."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

MODEL = "demo"
KEY = "the-key-of-the-tests"
QUESTION = "Name the capital of France."
ANSWER = "The capital of France is Paris."
"""What the embedded model says to it, asked for the likeliest tokens."""
CONVERSATION: Any = [{"role": "user", "content": QUESTION}]


class Town(BaseModel):
    """A town."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=8)


class Weather(BaseModel):
    """The weather of a city."""

    model_config = ConfigDict(extra="forbid")

    city: str = Field(max_length=8)

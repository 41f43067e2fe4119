"""instructor, which makes objects of answers."""

from __future__ import annotations

from typing import Any, Literal

import openai
import pytest

instructor = pytest.importorskip("instructor")

from pydantic import BaseModel, ConfigDict  # noqa: E402

from ..serving import Server  # noqa: E402
from .shared import CONVERSATION, KEY, MODEL, Town  # noqa: E402


class Trip(BaseModel):
    """A trip."""

    model_config = ConfigDict(extra="forbid")

    capital: Town
    kind: Literal["walk", "ride"]


ASKED: Any = {"model": MODEL, "messages": CONVERSATION, "temperature": 0, "max_tokens": 60, "max_retries": 0}


def client_of(server: Server, mode: str) -> Any:
    return instructor.from_openai(server.client(api_key=KEY), mode=instructor.Mode[mode])


@pytest.mark.parametrize("mode", ["JSON_SCHEMA", "TOOLS"])
def test_an_answer_becomes_an_object(server: Server, mode: str) -> None:
    trip = client_of(server, mode).chat.completions.create(response_model=Trip, **ASKED)
    assert isinstance(trip, Trip)


def test_an_object_grows_as_it_is_streamed(server: Server) -> None:
    grown = list(client_of(server, "JSON_SCHEMA").chat.completions.create_partial(response_model=Trip, **ASKED))
    assert len(grown) > 5
    Trip.model_validate(grown[-1].model_dump())


@pytest.mark.sweep
def test_strict_tools(server: Server) -> None:
    town = client_of(server, "TOOLS_STRICT").chat.completions.create(response_model=Town, **ASKED)
    assert isinstance(town, Town)


def test_an_error_of_the_server_is_told(server: Server) -> None:
    with pytest.raises(Exception, match="does not exist") as refused:
        client_of(server, "TOOLS").chat.completions.create(response_model=Town, **{**ASKED, "model": "other"})
    assert isinstance(refused.value, openai.NotFoundError) or "404" in str(refused.value)

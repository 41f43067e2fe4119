"""Every list of a request ends at its first wrong entry, so that a million of them do not make a million errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dovetail.server.messages.protocol import CountTokensRequest, MessagesRequest
from dovetail.server.operations.tokenization import BODIES as TOKENIZATION
from dovetail.server.pooling.protocol import BODIES as POOLING
from dovetail.server.protocol.base import Body
from dovetail.server.protocol.requests import ChatCompletionRequest, CompletionRequest
from dovetail.server.responses.protocol import ResponsesRequest

MODELS: tuple[type[Body], ...] = (
    ChatCompletionRequest,
    CompletionRequest,
    MessagesRequest,
    CountTokensRequest,
    ResponsesRequest,
    *TOKENIZATION,
    *POOLING,
)


def find_lists(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") == "list" and "items_schema" in schema:
            yield schema
        for name, inner in schema.items():
            if name != "serialization":  # of what is written
                yield from find_lists(inner)
    elif isinstance(schema, list | tuple):
        for inner in schema:
            yield from find_lists(inner)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_lists_end_at_their_first_wrong_entry(model: type[Body]) -> None:
    slow = [found for found in find_lists(model.__pydantic_core_schema__) if not found.get("fail_fast")]
    # Entries of any kind are never wrong.
    assert [found for found in slow if found["items_schema"]["type"] != "any"] == []

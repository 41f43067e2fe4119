"""Texts on their way into arguments."""

from __future__ import annotations

from dovetail.api import CallArguments
from dovetail.api.parsing import dumps


def json_string_piece(text: str) -> CallArguments:
    """A piece of a text, as JSON has it between quotation marks."""
    return CallArguments(dumps(text)[1:-1])

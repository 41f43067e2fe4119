"""Encodes texts for arguments."""

from __future__ import annotations

from dovetail.api import CallArguments
from dovetail.api.parsing import dumps


def json_string_piece(text: str) -> CallArguments:
    """Encode a piece of a text as JSON, without quotation marks."""
    return CallArguments(dumps(text)[1:-1])

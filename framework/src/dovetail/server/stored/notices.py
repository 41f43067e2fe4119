"""What a client is told of an answer that could not be stored."""

from __future__ import annotations

from dovetail.engine.grammars.checks import collected_notices
from dovetail.server.stored.database import StoreUnavailableError


def not_stored_notice(kind: str, error: Exception) -> str:
    """Why an answer is not stored, as text of one line.

    Args:
        kind: what the answer is.
    """
    reason = (
        error.reason if isinstance(error, StoreUnavailableError) else "its request_id was given to another meanwhile"
    )
    return f"the {kind} is not stored: {reason}"


def add_notice(notice: str) -> None:
    """Tell the client in a header, unless its answer has begun."""
    if (collected := collected_notices.get()) is not None:
        collected.append(notice)

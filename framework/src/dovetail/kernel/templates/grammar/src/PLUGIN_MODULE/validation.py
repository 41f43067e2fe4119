"""What the backend takes. Asked before a request is queued, so this module must not import torch."""

from __future__ import annotations

import json

from dovetail.api import GrammarSource, RequestError


def validate_source(source: GrammarSource) -> None:
    """Raise :class:`dovetail.api.RequestError` for what does not compile.

    A backend that leaves out a part of some forms returns a list of notices, a sentence for each part.
    """
    choices_of(source)


def choices_of(source: GrammarSource) -> list[str]:
    """The texts of a list.

    Raises:
        RequestError: it is none.
    """
    if source.kind != "choice":
        raise RequestError(f"wanted a choice, found {source.kind}", param="structured_outputs")
    try:
        choices = json.loads(source.text)
        json.dumps(choices, ensure_ascii=False).encode()  # JSON may hold half of a surrogate pair, which is no text
    except ValueError as error:
        raise RequestError(f"the choice cannot be read ({error})", param="structured_outputs") from None
    if not (isinstance(choices, list) and choices and all(isinstance(text, str) for text in choices)):
        raise RequestError(
            f"the choice is {source.text[:80]!r}, wanted a list of one or more texts", param="structured_outputs"
        )
    return choices

"""Shortens llguidance's error messages to one line, without the source text."""

from __future__ import annotations

import re

from dovetail.api import GrammarKind

MAX_LENGTH = 500
SNIPPET = re.compile(r"^\s*(\d+ \||\^+\s*$).*", re.MULTILINE)
"""The lines of an error that quote the grammar, and those that point at a column."""
PLACED = r"^at \d+\(\d+\): "
REGEX = re.compile(PLACED + r'invalid regex ".*?" \(in regex\): ', re.DOTALL)
"""Beginning of errors about an expression."""
SCHEMA = re.compile(PLACED + "(?=failed to compile JSON schema)")
"""The position of a schema in the grammar around it."""
POINTED = re.compile(r"^regex parse error:\n {4}[^\n]*\n {4}( *)\^+\n(?:error: )?", re.MULTILINE)


def shorten_message(message: str, kind: GrammarKind | None = None) -> str:
    """An error of llguidance for a user who only knows their own text.

    Args:
        message: llguidance's message: a sentence after ``line(column)``, then an excerpt, then the parser's state.
        kind: of the text. Lines and columns are only the user's own if it is a grammar.
    """
    message = re.split(r"\n?<(?:state|non-verbose)", message)[0]
    if kind != "grammar":
        message = SCHEMA.sub("", REGEX.sub("", message))
    message = POINTED.sub(lambda found: f"at character {len(found[1]) + 1}: ", message)
    message = " ".join(SNIPPET.sub("", message).split())
    return message if len(message) <= MAX_LENGTH else message[: MAX_LENGTH - 1] + "…"

"""What llguidance says, in one line and without the text it was given."""

from __future__ import annotations

import re

from dovetail.api import GrammarKind

MAX_LENGTH = 500
SNIPPET = re.compile(r"^\s*(\d+ \||\^+\s*$).*", re.MULTILINE)
"""The lines of an error that quote the grammar, and those that point into them."""
PLACED = r"^at \d+\(\d+\): "
REGEX = re.compile(PLACED + r'invalid regex ".*?" \(in regex\): ', re.DOTALL)
"""How errors begin that are about an expression."""
SCHEMA = re.compile(PLACED + "(?=failed to compile JSON schema)")
"""The place of a schema in the grammar around it."""
POINTED = re.compile(r"^regex parse error:\n {4}[^\n]*\n {4}( *)\^+\n(?:error: )?", re.MULTILINE)


def shorten_message(message: str, kind: GrammarKind | None = None) -> str:
    """An error of llguidance's for a reader who knows only the text they sent.

    Args:
        message: as llguidance gives it: a sentence with ``line(column)`` in front, then an excerpt, then the parser's state.
        kind: of the text. Only in a grammar are lines and columns the reader's.
    """
    message = re.split(r"\n?<(?:state|non-verbose)", message)[0]
    if kind != "grammar":
        message = SCHEMA.sub("", REGEX.sub("", message))
    message = POINTED.sub(lambda found: f"at character {len(found[1]) + 1}: ", message)
    message = " ".join(SNIPPET.sub("", message).split())
    return message if len(message) <= MAX_LENGTH else message[: MAX_LENGTH - 1] + "…"

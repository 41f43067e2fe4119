"""Measures what a tokenizer's own patterns cost on texts made against them, before any request's text meets them.

``tokenizer.json`` may have regular expressions, which the library runs with an engine that backtracks. A pattern such
as ``(a+)+$`` takes exponential time on some texts. Such texts are tried here, each longer than the last, and the first
one that takes too long ends the trial: so a trial is short, whatever the pattern. Patterns whose time grows with the
square of the length pass: a few published ones do that on digits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import tokenizers

from dovetail.api.errors import CheckpointError
from dovetail.api.text import quote_foreign

LENGTHS = (8, 12, 16, 18, 20, 22, 24, 26, 28, 32, 40, 64, 128, 256)
"""Characters of the texts. Exponential time at most quadruples from one to the next, up to where it is seconds."""
PIECES = ("a", "A", "aA", " ", "a ", "1", "1,", "\n", " \n", ".", "'", "é", "中", "e\u0301")
"""What texts repeat. What stands in a pattern is added, up to a few characters."""
MAX_OWN_PIECES = 8
ENDS = ("", "\x00", "!")
"""What texts end with, so that a pattern that has matched so far does not match after all."""
MAX_SECONDS = 0.1
"""Of processor time for one text. Usual patterns take less than a millisecond."""
MAX_SECONDS_IN_ALL = 0.5
"""Of all texts. Usual patterns take 0.05 s."""


def check_patterns(backend: tokenizers.Tokenizer, file: Path) -> None:
    """Try the patterns of a tokenizer, if it has any.

    Raises:
        CheckpointError: one takes too long.
    """
    in_all = 0.0
    parts = [part for part in (backend.normalizer, backend.pre_tokenizer) if part is not None]
    for part in parts:
        patterns = list(_find_patterns(json.loads(part.__getstate__())))
        if not patterns:
            continue
        run = part.normalize_str if hasattr(part, "normalize_str") else part.pre_tokenize_str
        for text in _texts(patterns):
            started = time.thread_time()
            try:
                run(text)
                gave_up = False
            except BaseException as error:
                if "retry-limit" not in str(error):
                    raise
                gave_up = True
            took = time.thread_time() - started
            in_all += took
            if gave_up or took > MAX_SECONDS or in_all > MAX_SECONDS_IN_ALL:
                raise CheckpointError(
                    f"the regular expressions of {file} ({', '.join(quote_foreign(p, 80) for p in patterns[:3])}) take "
                    f"too much time ({took:.2f} s for the text {quote_foreign(text, 40)}, wanted less than {MAX_SECONDS} s)",
                    "requests with such texts would stop the server: name another tokenizer with --tokenizer",
                )


def _find_patterns(state: object) -> Iterator[str]:
    """Every regular expression in a part's state."""
    if isinstance(state, dict):
        for key, value in state.items():
            if key == "Regex" and isinstance(value, str):
                yield value
            else:
                yield from _find_patterns(value)
    elif isinstance(state, list):
        for value in state:
            yield from _find_patterns(value)


def _texts(patterns: list[str]) -> Iterator[str]:
    own = dict.fromkeys(c for pattern in patterns for c in pattern if c.isalnum())
    pieces = [*PIECES, *list(own)[:MAX_OWN_PIECES]]
    for length in LENGTHS:
        for piece in pieces:
            for end in ENDS:
                yield (piece * length)[:length] + end

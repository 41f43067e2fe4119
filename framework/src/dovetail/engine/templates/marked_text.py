"""Marks: characters that stand for others in a text, so that it can be seen where these get to."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

MARK_RANGES = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE), range(0x40000, 0xDFFFE))
"""Code points for marks: those for private use first, then those that mean nothing yet."""
_ESCAPED = re.compile(
    r"\\+u(d[89ab][0-9a-f]{2})\\+u(d[c-f][0-9a-f]{2})|\\+U([0-9a-f]{8})|(%f[0-4](?:%[89ab][0-9a-f]){3})",
    re.IGNORECASE,
)
"""Characters of these code points as JSON, Python and URLs write them in ASCII."""


def choose_marks(characters: Iterable[str], texts: Sequence[str]) -> dict[str, str] | None:
    """A mark for each character, which occurs in none of the texts, escaped forms included; None if there are too few
    left.
    """
    used: set[str] = set()
    for text in texts:
        used.update(text)
        if "\\" in text or "%" in text:
            used.update(filter(None, map(_unescape, _ESCAPED.finditer(text))))
    wanted = sorted(characters)
    free = (chr(i) for numbers in MARK_RANGES for i in numbers if chr(i) not in used)
    marks = dict(zip(wanted, free, strict=False))
    return marks if len(marks) == len(wanted) else None


def align_marked(text: str, marked: str, marks: dict[str, str]) -> str | None:
    """Compare a text with the one in which some characters are marks.

    Args:
        marks: character → mark.

    Returns:
        The text with marks where the other one has them; None if they differ in more than marks. A mark may be escaped,
        and so may the character that it stands for.
    """
    meant = {mark: character for character, mark in marks.items()}
    if len(text) == len(marked) and marked.translate({ord(mark): c for mark, c in meant.items()}) == text:
        return marked
    found: list[str] = []
    here = there = 0
    for match in re.finditer(f"[{''.join(meant)}]|{_ESCAPED.pattern}", marked, re.IGNORECASE):
        mark = match[0] if match[0] in meant else _unescape(match)
        if mark not in meant:
            continue
        same = marked[there : match.start()]
        here += len(same)
        written = next((form for form in _forms(meant[mark]) if text.startswith(form, here)), None)
        if written is None or text[here - len(same) : here] != same:
            return None
        found += (same, mark if len(written) == 1 else written)
        here, there = here + len(written), match.end()
    return "".join((*found, text[here:])) if text[here:] == marked[there:] else None


def _unescape(match: re.Match[str]) -> str:
    high, low, code, quoted = match.groups()
    if high:
        return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)
    if code:
        number = int(code, 16)
        return chr(number) if number < 0x110000 else ""
    if quoted:
        return bytes.fromhex(quoted.replace("%", "")).decode(errors="replace")
    return ""


def _forms(character: str) -> tuple[str, ...]:
    """How a filter may write a character, the longest first."""
    escaped = {
        html.escape(character),
        f"\\u{ord(character):04x}",
        "".join(f"%{byte:02X}" for byte in character.encode()),
    }
    if character == '"':
        escaped |= {"&#34;", '\\"'}
    elif character == "'":
        escaped |= {"&#39;", "\\'"}
    return (*sorted(escaped, key=len, reverse=True), character, character.lower(), character.upper())

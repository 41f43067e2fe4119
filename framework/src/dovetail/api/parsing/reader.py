"""Reads text that arrives in pieces as if it were complete."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
EventGenerator = Generator[Any, None, R]
"""A generator that yields events, and None when it waits for more text; it returns an ``R``."""

LIMIT = 256
"""Default limit of characters that may be held back while their meaning is not certain."""
SPACE = re.compile(r"\s*")


class Markers:
    """Texts to look for.

    Args:
        texts: no text may begin with another one.
    """

    def __init__(self, *texts: str) -> None:
        assert texts
        assert all(texts)
        assert not any(a != b and b.startswith(a) for a in texts for b in texts), texts
        self.texts = texts
        self.pattern = re.compile("|".join(map(re.escape, texts)))
        self.longest = max(map(len, texts))
        self._prefixes = frozenset(text[:length] for text in texts for length in range(1, len(text)))
        self._endings = tuple(self._prefixes)

    def is_prefix(self, text: str) -> bool:
        """Whether a text is the beginning of a marker."""
        return not text or text in self._prefixes

    def partial_length(self, text: str, at: int) -> int:
        """The number of characters at the end of ``text[at:]`` that may be the beginning of a marker."""
        if not text.endswith(self._endings):
            return 0
        longest = min(self.longest - 1, len(text) - at)
        return next((n for n in range(longest, 0, -1) if text[-n:] in self._prefixes), 0)


@functools.cache
def markers(*texts: str) -> Markers:
    """Cached :class:`Markers`."""
    return Markers(*texts)


class Reader:
    """A reading position in text that arrives in pieces.

    Each method is a generator: ``found = yield from reader.read_until(…)``. It yields None when it must wait for more
    text.

    Attributes:
        record: if it is a list, all text read is appended to it, so that it can be returned unchanged.
        ended: no more text will come.
    """

    def __init__(self) -> None:
        self.record: list[str] | None = None
        self.ended = False
        self._text = ""
        self._at = 0

    def push(self, text: str) -> None:
        """Add a piece of text."""
        # What is held back is short, so this takes time in proportion to what comes.
        self._text = self._text[self._at :] + text
        self._at = 0

    def unread(self, text: str) -> None:
        """Unread text that was just read. It must be from the newest piece, or from text that was held back with it."""
        assert self._text.endswith(text, 0, self._at)
        assert self.record is None
        self._at -= len(text)

    def read_until(self, wanted: Markers, emit: Callable[[str], Any], *, awaited: bool = False) -> EventGenerator[str]:
        """Read up to and including the next marker.

        Args:
            emit: makes an event from a piece of the text before it, or stores the piece and returns None.
            awaited: a marker is required: a cut-off marker at the end of the text is not emitted as text.

        Returns:
            The marker; "" if the text ended without one.
        """
        while True:
            match = wanted.pattern.search(self._text, self._at)
            if match:
                end = match.start()
            else:
                certain = self.ended and not awaited
                end = len(self._text) - (0 if certain else wanted.partial_length(self._text, self._at))
            if end > self._at and (event := emit(self._take(end))) is not None:
                yield event
            if match:
                return self._take(match.end())
            if not (yield from self._more()):
                self.skip_available()
                return ""

    def read_rest(self, emit: Callable[[str], Any]) -> EventGenerator[None]:
        """Read all remaining text. Args: see :meth:`read_until`."""
        yield from self.scan(lambda text, at: (len(text), False), emit)

    def read_marker(self, wanted: Markers) -> EventGenerator[str]:
        """Read a marker at this position. Returns "" if there is none. A marker that is cut off by the end of the
        text is read too.
        """
        while True:
            if match := wanted.pattern.match(self._text, self._at):
                return self._take(match.end())
            ahead = self._text[self._at : self._at + wanted.longest]
            if not wanted.is_prefix(ahead):
                return ""
            if not (yield from self._more()):
                self.skip_available()
                return ""

    def match(self, pattern: re.Pattern[str], limit: int = LIMIT) -> EventGenerator[re.Match[str] | None]:
        """Read what a pattern matches at this position. Returns None, without reading, if it does not match.

        Args:
            pattern: its matches must end in something definite, so that more text cannot change them: not in ``\\s*``,
                for example.
            limit: maximum number of characters that it looks at and holds back.
        """
        while True:
            if match := pattern.match(self._text, self._at, self._at + limit):
                self._take(match.end())
                return match
            if len(self._text) - self._at >= limit or not (yield from self._more()):
                return None

    def peek(self) -> EventGenerator[str]:
        """The next character, without reading it; "" at the end."""
        while self._at == len(self._text):
            if not (yield from self._more()):
                return ""
        return self._text[self._at]

    def skip_space(self) -> EventGenerator[str]:
        """Read white space. Returns the next character without reading it."""
        while True:
            found = SPACE.match(self._text, self._at)
            assert found
            self._take(found.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not (yield from self._more()):
                return ""

    def skip(self, count: int = 1) -> None:
        """Read characters that were peeked at."""
        self._take(self._at + count)

    def skip_available(self) -> None:
        """Skip all text that has arrived."""
        self._take(len(self._text))

    def scan(self, end: Callable[[str, int], tuple[int, bool]], emit: Callable[[str], Any]) -> EventGenerator[None]:
        """Read up to the position that a function finds.

        Args:
            end: gets a text and an index in it. Returns the index that it came to, and whether reading ends there. If
                not, it has scanned all of the text, and is called again with the next piece.
            emit: makes an event from a piece of what is read, or stores it and returns None.
        """
        while True:
            place, done = end(self._text, self._at)
            if place > self._at and (event := emit(self._take(place))) is not None:
                yield event
            if done or not (yield from self._more()):
                return

    def _more(self) -> EventGenerator[bool]:
        """Wait for more text. Returns whether there may be any."""
        if self.ended:
            return False
        yield None
        return True

    def _take(self, end: int) -> str:
        text = self._text[self._at : end]
        self._at = end
        if self.record is not None and text:
            self.record.append(text)
        return text


def discard(text: str) -> None:
    """An ``emit`` that drops the text."""

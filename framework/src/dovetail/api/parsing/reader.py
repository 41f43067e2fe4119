"""Text that arrives in pieces, read as if it were all there."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
EventGenerator = Generator[Any, None, R]
"""Yields events, and None where it waits for more text; returns an ``R``."""

LIMIT = 256
"""Characters that may be held back while it is not certain what they are, where a parser says no other number."""
SPACE = re.compile(r"\s*")


class Markers:
    """Texts to look for.

    Args:
        texts: none of which begins with another.
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
        """Whether a text may become a marker when more of it comes."""
        return not text or text in self._prefixes

    def partial_length(self, text: str, at: int) -> int:
        """How many characters at the end of ``text[at:]`` may be the beginning of a marker."""
        if not text.endswith(self._endings):
            return 0
        longest = min(self.longest - 1, len(text) - at)
        return next((n for n in range(longest, 0, -1) if text[-n:] in self._prefixes), 0)


@functools.cache
def markers(*texts: str) -> Markers:
    """:class:`Markers`, made once."""
    return Markers(*texts)


class Reader:
    """A place in a text of which more may come.

    Each method is a generator: ``found = yield from reader.read_until(…)``. It yields None where it must wait for more text.

    Attributes:
        record: where a list stands here, all that is read is appended to it, so that it can be handed out as it stands.
        ended: no more text will come.
    """

    def __init__(self) -> None:
        self.record: list[str] | None = None
        self.ended = False
        self._text = ""
        self._at = 0

    def push(self, text: str) -> None:
        """More text has come."""
        # What is held back is short, so this takes time in proportion to what comes.
        self._text = self._text[self._at :] + text
        self._at = 0

    def unread(self, text: str) -> None:
        """Unread what was read last, of what came last or was waited for with it."""
        assert self._text.endswith(text, 0, self._at)
        assert self.record is None
        self._at -= len(text)

    def read_until(self, wanted: Markers, emit: Callable[[str], Any], *, awaited: bool = False) -> EventGenerator[str]:
        """Read to the next marker, and past it.

        Args:
            emit: makes an event of a piece of the text before it, or puts the piece away and returns None.
            awaited: a marker must come, so that what may be the beginning of one is no text even where the text ends.

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
        """Read all that comes. Args: see :meth:`read_until`."""
        yield from self.scan(lambda text, at: (len(text), False), emit)

    def read_marker(self, wanted: Markers) -> EventGenerator[str]:
        """Read a marker if one stands here; "" if none does. Of one that the end of the text cut off, what is there is read too."""
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
        """Read what a pattern matches here; None, and nothing is read, if it matches nothing.

        Args:
            pattern: whose matches end in something definite, so that no further text can change them: not in ``\\s*``, say.
            limit: characters that it looks at, and holds back, at most.
        """
        while True:
            if match := pattern.match(self._text, self._at, self._at + limit):
                self._take(match.end())
                return match
            if len(self._text) - self._at >= limit or not (yield from self._more()):
                return None

    def peek(self) -> EventGenerator[str]:
        """The next character, which is left there; "" at the end."""
        while self._at == len(self._text):
            if not (yield from self._more()):
                return ""
        return self._text[self._at]

    def skip_space(self) -> EventGenerator[str]:
        """Read white space, and peek at what follows."""
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
        """Read what is there."""
        self._take(len(self._text))

    def scan(self, end: Callable[[str, int], tuple[int, bool]], emit: Callable[[str], Any]) -> EventGenerator[None]:
        """Read to where a function says.

        Args:
            end: gets a text and a place in it; returns the place that it came to, and whether reading ends there. Otherwise it has gone through all
                of the text, and goes on with the next.
            emit: makes an event of a piece of what is read, or puts it away and returns None.
        """
        while True:
            place, done = end(self._text, self._at)
            if place > self._at and (event := emit(self._take(place))) is not None:
                yield event
            if done or not (yield from self._more()):
                return

    def _more(self) -> EventGenerator[bool]:
        """Wait for more text; whether there may be any."""
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
    """For ``emit``: the text is neither handed out nor kept."""

"""An index that finds earlier occurrences of the end of a growing sequence.

N: size of the shortest n-gram that counts.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Sequence

CHAIN = 32
"""Maximum number of places that are compared in one search, latest first. It bounds the time of a search in text
that repeats one N-gram thousands of times.
"""
WINDOW = 16_384
"""At least this many of the newest tokens are indexed, and at most twice as many. Each one that begins a new N-gram
needs about 200 bytes.
"""
NOWHERE = -1


class NgramIndex:
    """For every N-gram of a sequence, the places after it, latest first: a dictionary to the last one, and a chain from
    each to the one before (as in LZ77 compressors: Deutsch, RFC 1951, section 4).

    Adding a token takes constant time, whatever the length of the sequence; so does a search.

    Args:
        shortest, longest: sizes of the n-grams: N, and the size from which all matches are equally good.
    """

    def __init__(self, shortest: int, longest: int, window: int = WINDOW) -> None:
        self.shortest, self.longest, self.window = shortest, longest, window
        self._begin(0)

    def _begin(self, first: int) -> None:
        self._first = first  # of the indexed tokens
        self._end = first + self.shortest - 1  # the place behind the last indexed N-gram
        self._last: dict[Hashable, int] = {}
        self._before = array("q")  # for places from first + N on: the one before with the same N-gram

    def extend(self, tokens: Sequence[int]) -> None:
        """Index the new tokens. ``tokens`` must begin with those of the last call."""
        if len(tokens) - self._first > 2 * self.window:
            self._begin(len(tokens) - self.window)
        size, last, before = self.shortest, self._last, self._before
        begin = self._end + 1 - size
        new = tokens[begin:]
        grams: Iterable[Hashable] = new if size == 1 else zip(*(new[k:] for k in range(size)), strict=False)
        place = self._end
        for place, gram in enumerate(grams, self._end + 1):
            before.append(last.get(gram, NOWHERE))
            last[gram] = place
        self._end = place

    def find(self, tokens: Sequence[int]) -> int:
        """The place after an earlier occurrence of the sequence's end: the longest one, and the latest of these;
        :data:`NOWHERE` if even its last N tokens did not occur before. In source code and prose the latest is right
        slightly more often than the earliest.

        Args:
            tokens: those of the last :meth:`extend`.
        """
        origin = self._first + self.shortest
        place = len(tokens)
        if place < origin:
            return NOWHERE
        found, best = NOWHERE, self.shortest - 1
        for _ in range(CHAIN):
            place = self._before[place - origin]
            if place == NOWHERE:
                break
            length = self._common(tokens, place)
            if length > best:
                found, best = place, length
                if best >= self.longest:
                    break
        return found

    def _common(self, tokens: Sequence[int], place: int) -> int:
        """The number of tokens before a place that equal those at the end; at least N."""
        length, end = self.shortest, len(tokens)
        max_tokens = min(self.longest, place - self._first)
        while length < max_tokens and tokens[place - 1 - length] == tokens[end - 1 - length]:
            length += 1
        return length

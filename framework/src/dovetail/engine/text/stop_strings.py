"""Finds stop strings in text that arrives in pieces."""

from __future__ import annotations


class StopStrings:
    """Finds stop strings, also across tokens.

    Text that may be the beginning of a stop string is held back until this is certain.

    Args:
        stops: the stop strings; if several begin at the same place, the longest one counts.
        include: whether the text that ended the output is shown.
    """

    def __init__(self, stops: list[str], include: bool) -> None:
        self.stops = stops
        self.include = include
        self.held_text = ""

    def add(self, text: str, active: bool = True) -> tuple[str, str | None]:
        """Add text. Returns the text that can be shown, and the stop string that ended the output, if one did.

        Args:
            active: whether the output may end now. A stop string that is complete before that is ordinary text. One
                that begins before and is complete after ends the output.
        """
        self.held_text += text
        found = (
            [(at, -len(stop), stop) for stop in self.stops if (at := self.held_text.find(stop)) >= 0]
            if active
            else None
        )
        if found:
            at, _, stop = min(found)  # the first to appear; of those that begin together, the longest
            shown = self.held_text[: at + len(stop) if self.include else at]
            self.held_text = ""
            return shown, stop
        keep = max(self._overlap(stop) for stop in self.stops)
        shown, self.held_text = (
            self.held_text[: len(self.held_text) - keep],
            self.held_text[len(self.held_text) - keep :],
        )
        return shown, None

    def _overlap(self, stop: str) -> int:
        """Length of the longest suffix of the held text that is a prefix of this stop string."""
        for length in range(min(len(stop) - 1, len(self.held_text)), 0, -1):
            if self.held_text.endswith(stop[:length]):
                return length
        return 0

    def flush(self) -> str:
        shown, self.held_text = self.held_text, ""
        return shown

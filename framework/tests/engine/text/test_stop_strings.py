"""Stop strings, in text that is cut at every possible place."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.engine.text.stop_strings import StopAutomaton, StopStrings

TEXT = st.text("ab.", max_size=30)
STOPS = st.lists(st.text("ab.", min_size=1, max_size=4), min_size=1, max_size=3)
CUTS = st.lists(st.integers(1, 4), max_size=30)


def whole(text: str, stops: list[str], include: bool, begin: int = 0) -> tuple[str, str | None]:
    """The definition: cut at the stop that begins first, the longest of those that begin together.

    Args:
        begin: stops that end here or before do not count.
    """
    places = [
        (at, -len(s), s)
        for s in stops
        for at in range(len(text) - len(s) + 1)
        if text.startswith(s, at) and at + len(s) > begin
    ]
    if not places:
        return text, None
    at, _, stop = min(places)
    return text[: at + (len(stop) if include else 0)], stop


def pieces(text: str, cuts: list[int]) -> list[str]:
    found, position = [], 0
    for size in [*cuts, len(text)]:
        found.append(text[position : position + size])
        position += size
    return found


@given(text=TEXT, stops=STOPS, cuts=CUTS, include=st.booleans())
def test_text_in_pieces_is_text_cut_at_the_first_stop_that_completes(
    text: str, stops: list[str], cuts: list[int], include: bool
) -> None:
    watcher, shown, seen = StopStrings(StopAutomaton(stops), include), "", ""
    for piece in pieces(text, cuts):
        seen += piece
        new, stop = watcher.add(piece)
        shown += new
        if stop is not None:
            # What has been seen so far decides; more text could not have changed it.
            assert (shown, stop) == whole(seen, stops, include)
            return
    shown += watcher.flush()
    assert (shown, None) == whole(text, stops, include)


class SlowStopStrings:
    """The same by looking for each stop string, and for each of its beginnings, every time."""

    def __init__(self, stops: list[str], include: bool) -> None:
        self.stops = stops
        self.include = include
        self.held_text = ""

    def add(self, text: str, active: bool = True) -> tuple[str, str | None]:
        self.held_text += text
        found = [(at, -len(stop), stop) for stop in self.stops if (at := self.held_text.find(stop)) >= 0]
        if found and active:
            at, _, stop = min(found)
            shown = self.held_text[: at + len(stop) if self.include else at]
            self.held_text = ""
            return shown, stop
        keep = max(
            length
            for stop in self.stops
            for length in range(len(stop))
            if self.held_text.endswith(stop[:length]) or not length
        )
        cut = len(self.held_text) - keep
        shown, self.held_text = self.held_text[:cut], self.held_text[cut:]
        return shown, None


@given(text=st.text("ab", max_size=60), stops=st.lists(st.text("ab", min_size=1, max_size=9), min_size=1), cuts=CUTS)
def test_what_is_shown_and_held_is_that_of_the_slow_search(text: str, stops: list[str], cuts: list[int]) -> None:
    fast, slow = StopStrings(StopAutomaton(stops), True), SlowStopStrings(stops, True)
    for piece in pieces(text, cuts):
        answer = fast.add(piece)
        assert answer == slow.add(piece)
        if answer[1] is not None:
            return
        assert fast.held_text == slow.held_text


@given(text=TEXT, stops=STOPS, cuts=CUTS, waiting=st.integers(0, 10))
def test_of_several_stops_those_that_complete_too_early_are_text(
    text: str, stops: list[str], cuts: list[int], waiting: int
) -> None:
    watcher, shown, seen, begin = StopStrings(StopAutomaton(stops), False), "", "", 0
    for number, piece in enumerate(pieces(text, cuts)):
        seen += piece
        active = number >= waiting
        new, found = watcher.add(piece, active)
        shown += new
        if not active:
            begin = len(seen)
        if found is not None:
            assert active
            assert (shown, found) == whole(seen, stops, False, begin)
            return
    assert (shown + watcher.flush(), None) == whole(text, stops, False, begin)


@pytest.mark.alone
def test_time_does_not_grow_with_the_stop_strings(slowness: Callable[[], float]) -> None:
    """As many and as long ones as a request may have, and an output that begins all of them again and again."""
    stops = [f"{'a' * 250}{i:05}" for i in range(256)]
    begun = time.monotonic()
    watcher = StopStrings(StopAutomaton(stops), False)
    for _ in range(10_000):
        watcher.add("aaaaaaab")
    assert time.monotonic() - begun < 2 * slowness()


@given(text=TEXT, stop=st.text("ab.", min_size=1, max_size=4), cuts=CUTS, waiting=st.integers(0, 10))
def test_a_stop_that_completes_too_early_is_text(text: str, stop: str, cuts: list[int], waiting: int) -> None:
    watcher, shown, seen, begin = StopStrings(StopAutomaton([stop]), False), "", "", 0
    for number, piece in enumerate(pieces(text, cuts)):
        seen += piece
        active = number >= waiting
        new, found = watcher.add(piece, active)
        shown += new
        if not active:
            begin = len(seen)
        if found is not None:
            assert active
            assert (shown, found) == whole(seen, [stop], False, begin)
            return
    assert (shown + watcher.flush(), None) == whole(text, [stop], False, begin)


def test_what_cannot_begin_a_stop_is_shown_at_once() -> None:
    watcher = StopStrings(StopAutomaton(["END"]), False)
    assert watcher.add("one E") == ("one ", None)
    assert watcher.add("N") == ("", None)
    assert watcher.add("ough") == ("ENough", None)

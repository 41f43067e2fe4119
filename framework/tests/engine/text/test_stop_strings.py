"""Stop strings, in text that is cut at every possible place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dovetail.engine.text.stop_strings import StopStrings

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
    watcher, shown, seen = StopStrings(stops, include), "", ""
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


@given(text=TEXT, stop=st.text("ab.", min_size=1, max_size=4), cuts=CUTS, waiting=st.integers(0, 10))
def test_a_stop_that_completes_too_early_is_text(text: str, stop: str, cuts: list[int], waiting: int) -> None:
    watcher, shown, seen, begin = StopStrings([stop], False), "", "", 0
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
    watcher = StopStrings(["END"], False)
    assert watcher.add("one E") == ("one ", None)
    assert watcher.add("N") == ("", None)
    assert watcher.add("ough") == ("ENough", None)

"""Tests that the kernel refuses what a card does not claim: the real resolution, with only that card installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from typing import Any
from unittest import SkipTest

from dovetail.api import Card, DovetailError, PluginError, ResolutionError
from dovetail.kernel.choose import BROKEN_PROBE, run_probe
from dovetail.kernel.discovery import GROUP, Plugin
from dovetail.kernel.plan_parts import Part
from dovetail.kernel.registry import Registry
from dovetail.testing.comparison import label


def part_of(card: Any) -> Part:
    """What a card offers, for the checks of the engine, whose errors then name the card."""
    return Part(kind=card.kind, name=card.name, distribution="", version="", target=card.target)


def make_registry(*cards: Card) -> Registry:
    """The registry of an environment with one plugin, which offers these cards."""
    entry = EntryPoint("under-test", "under_test", GROUP)
    return Registry([Plugin("under-test", entry, "under-test", "0", cards=list(cards))])


def refusal_message(action: Callable[[], Any], error: type[DovetailError]) -> str | None:
    """The text of the error that an action raises, or None if it raises none."""
    try:
        action()
    except error as refused:
        return str(refused)
    return None


def assert_refused(resolve: Callable[[], Any], claim: str, *cited: str) -> None:
    """Check that resolution fails, with a message that cites the request."""
    text = refusal_message(resolve, ResolutionError)
    assert text is not None, f"{claim}: not refused"
    for expected in cited:
        assert expected in text, f"{claim}: refused, but the reason does not cite {expected!r}: {text}"


@contextmanager
def claim(text: str) -> Iterator[None]:
    """Context manager: every exception inside becomes an AssertionError that names the claim."""
    try:
        yield
    except (AssertionError, SkipTest):
        raise
    except PluginError as error:  # which the checks of the engine raise
        raise AssertionError(f"{text}: {error.problem}") from error
    except Exception as error:
        raise AssertionError(f"{text}: {type(error).__name__}: {error}") from error


def skip_unless_present(card: Card, probe: str | None) -> None:
    """Skip the test if the card's own probe rejects this machine.

    Raises:
        SkipTest: with the probe's reason; pytest and unittest both show it.
    """
    reason = run_probe(probe)
    if reason is None:
        return
    assert not reason.startswith(BROKEN_PROBE), f"{label(card)}: {reason}"
    assert reason.strip(), f"{label(card)}: its probe objects without saying why"
    raise SkipTest(f"{label(card)} cannot run here: {reason}")

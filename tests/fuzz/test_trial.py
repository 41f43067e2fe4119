"""The trials themselves: each kind of finding is found."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from dovetail.api.errors import CheckpointError, PluginError

from .trial import run_trial


class RawError(CheckpointError):
    """An error whose message nobody has cleaned."""

    def __init__(self, text: str) -> None:
        super().__init__("wanted a", "do c")
        self.text = text

    def __str__(self) -> str:
        return self.text


def fail(error: BaseException) -> Callable[[], Any]:
    def work() -> None:
        raise error

    return work


def test_nothing_is_found_where_nothing_is() -> None:
    assert run_trial(lambda: None).problem is None
    outcome = run_trial(fail(CheckpointError("wanted a, found b", "do c")))
    assert outcome.problem is None
    assert outcome.message == "wanted a, found b; do c"


@pytest.mark.parametrize(
    ("work", "found"),
    [
        (fail(KeyError("x")), "a traceback"),
        (fail(PluginError("broken", "report it to its authors")), "blamed"),
        (fail(RawError("wanted a,\nfound b")), "more than a line"),
        (fail(RawError("wanted \x1b[31m")), "control characters"),
        (fail(RawError("x" * 9000)), "characters"),
        (lambda: time.sleep(60), "it took more than"),
        (lambda: b"x" * (200 * 2**20), "MB"),
    ],
)
def test_findings(work: Callable[[], Any], found: str) -> None:
    outcome = run_trial(work, seconds=2.0, megabytes=100)
    assert outcome.problem is not None
    assert found in outcome.problem

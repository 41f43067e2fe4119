"""Progress of loading: a bar in a terminal, and one summary line at the end."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from dovetail.utils import logs
from dovetail.utils.terminal import printable_line

if TYPE_CHECKING:
    from dovetail.kernel.plan import Plan

STARTING = "Starting the engine …"
FORMAT = "{desc} {percentage:3.0f}% |{bar:24}| {n_fmt}B of {total_fmt}B, {rate_fmt}, {remaining} left"


class LoadingBar:
    """Shows the engine's progress while it loads. The bar is drawn on standard error, and only if that is a terminal
    without JSON logs.

    Args:
        plan: whose weight files are loaded.
    """

    def __init__(self, plan: Plan) -> None:
        files = plan.checkpoint.files
        self.name = printable_line(os.path.basename(files[0] if len(files) == 1 else plan.checkpoint.path.rstrip("/")))
        self.count = len(files)
        self.size = sum(os.path.getsize(file) for file in files if os.path.isfile(file))
        self._drawn = sys.stderr.isatty() and not logs.writes_json()
        self._bar: Any = None
        self._began = self._start = time.monotonic()
        self._ended = 0.0

    def __enter__(self) -> LoadingBar:
        self._say(STARTING)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        self._say(" " * len(STARTING) + "\r")

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` weights are loaded. The first call has ``done`` 0."""
        if not done:
            self._began = time.monotonic()
        if done == total:
            self._ended = time.monotonic()
        if not self._drawn or not self.size:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                desc=f"Loading {self._files()}",
                total=self.size,
                unit="B",
                unit_scale=True,
                bar_format=FORMAT,
                leave=False,
                dynamic_ncols=True,
            )
        self._bar.update(self.size * done // max(1, total) - self._bar.n)

    def summary(self) -> str:
        """What was loaded, how long everything took so far, and how fast the weights were read."""
        text = f"loaded {self._files()} in {time.monotonic() - self._start:.1f} s"
        seconds = self._ended - self._began
        if not self.size or seconds <= 0:
            return text
        return f"{text} ({megabytes(self.size)} MB of weights, read at {megabytes(self.size / seconds)} MB/s)"

    def _files(self) -> str:
        return self.name if self.count <= 1 else f"{self.name} ({self.count} files)"

    def _say(self, text: str) -> None:
        if self._drawn:
            print(f"\r{text}", end="", file=sys.stderr, flush=True)


def megabytes(count: float) -> str:
    """Bytes in MB, with three significant figures."""
    value = count / 1e6
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"

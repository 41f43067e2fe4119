"""Views of a streaming response: plain, with dimmed reasoning, or as live Markdown."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from dovetail.client.http import Piece
from dovetail.utils.terminal import encodable, printable_answer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class View(Protocol):
    """Shows one response after another."""

    def show(self, pieces: Iterable[Piece]) -> None:
        """Show the pieces as they arrive. If they end early, what was shown stays."""
        ...


class PlainView:
    """Plain streamed text.

    Args:
        terminal: show reasoning dimmed. Elsewhere it is left out, because it could not be distinguished.
    """

    def __init__(self, terminal: bool) -> None:
        self.terminal = terminal

    def show(self, pieces: Iterable[Piece]) -> None:
        thinking = False
        answered = False
        try:
            for piece in pieces:
                if piece.thought and not self.terminal:
                    continue
                shown = printable_answer(piece.text) if self.terminal else encodable(piece.text)
                if piece.thought != thinking:
                    self._write(DIM if piece.thought else PLAIN + "\n\n")
                    thinking = piece.thought
                text = shown if answered or piece.thought else shown.lstrip()
                answered = answered or bool(text and not piece.thought)
                self._write(text)
        finally:
            self._write(f"{PLAIN}\n" if thinking else "\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class MarkdownView:
    """Live Markdown, drawn by rich: finished blocks are final, and the last block is redrawn as it grows."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def show(self, pieces: Iterable[Piece]) -> None:
        from rich.live import Live

        text, thinking = "", False
        with Live(console=self.console, refresh_per_second=10) as live:
            for piece in pieces:
                if piece.thought != thinking:
                    self._print_block(live.console, text, thinking)
                    text, thinking = "", piece.thought
                text += printable_answer(piece.text)
                done = finished_length(text)
                self._print_block(live.console, text[:done], thinking)
                text = text[done:]
                live.update(_render(text, thinking))

    @staticmethod
    def _print_block(console: Console, text: str, thinking: bool) -> None:
        if text.strip():
            console.print(_render(text, thinking))
            console.print()


def _render(text: str, thinking: bool) -> RenderableType:
    from rich.markdown import Markdown
    from rich.text import Text

    return Text(text.strip(), style="dim") if thinking else Markdown(text)


def finished_length(text: str) -> int:
    """The end of the last finished Markdown block of ``text``: at a blank line outside of a code fence."""
    end, place, fence = 0, 0, ""
    for line in text.splitlines(keepends=True):
        place += len(line)
        start = line.strip()[:3]
        if start in ("```", "~~~") and fence in ("", start):
            fence = "" if fence else start
        elif not line.strip() and not fence and line.endswith("\n"):
            end = place
    return end


def make_view() -> View:
    """The best view for the output."""
    if not sys.stdout.isatty():
        return PlainView(terminal=False)
    try:
        from rich.console import Console
    except ImportError:
        return PlainView(terminal=True)
    return MarkdownView(Console())

"""The parser of Dovetail's own commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from dovetail.api.errors import UsageError
from dovetail.cli.parsing.help import add_help, render
from dovetail.utils import FlexibleArgumentParser


class CommandHelp(argparse.HelpFormatter):
    """Reserves room for the names of commands, because argparse ignores that they are indented more than flags."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        for command in self._iter_indented_subactions(action):
            width = len(self._format_action_invocation(command)) + self._current_indent
            self._action_max_length = max(self._action_max_length, width)


class CommandParser(FlexibleArgumentParser):
    """A parser that prints every error in one line, like all errors of commands. Commands with ``--config`` enable
    it themselves.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        own_help = kwargs.pop("add_help", True)
        super().__init__(*args, **{"config_file": False, "formatter_class": CommandHelp, **kwargs}, add_help=False)
        if own_help:
            add_help(self)
        self._notices: list[str] = []

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Like every parser's. The namespace holds the notices, which are printed when logging is set up."""
        self._notices = []
        found, unknown = super().parse_known_args(args, namespace)
        if self._notices:
            found.notices = self._notices
        return found, unknown

    def note(self, notices: list[str]) -> None:
        self._notices = notices

    def refuse(self, faults: list[tuple[str, str]]) -> NoReturn:
        from dovetail.utils.foreign.translate import raise_faults

        raise_faults(faults)
        raise AssertionError("without faults")

    def error(self, message: str) -> NoReturn:
        raise UsageError(" ".join(message.split()), f"see {self.prog} --help")

    def format_help(self) -> str:
        return render(self)

"""The parser of Dovetail's own commands."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from dovetail.api.errors import UsageError
from dovetail.utils import FlexibleArgumentParser


class CommandHelp(argparse.HelpFormatter):
    """Leaves room for the names of commands: argparse forgets that they stand further in than flags."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        for command in self._iter_indented_subactions(action):
            width = len(self._format_action_invocation(command)) + self._current_indent
            self._action_max_length = max(self._action_max_length, width)


class CommandParser(FlexibleArgumentParser):
    """Refuses in one line, as everything does that a command finds wrong. Commands that take files of flags say so themselves."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"config_file": False, "formatter_class": CommandHelp, **kwargs})

    def error(self, message: str) -> NoReturn:
        raise UsageError(" ".join(message.split()), f"see {self.prog} --help")

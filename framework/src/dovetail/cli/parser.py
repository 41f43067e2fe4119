"""The parser of Dovetail's own commands."""

from __future__ import annotations

from typing import Any, NoReturn

from dovetail.api.errors import UsageError
from dovetail.utils import FlexibleArgumentParser


class CommandParser(FlexibleArgumentParser):
    """Refuses in one line, as everything does that a command finds wrong. Commands that take files of flags say so themselves."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"config_file": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        raise UsageError(" ".join(message.split()), f"see {self.prog} --help")

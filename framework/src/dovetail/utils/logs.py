"""The log of a server's processes, on standard error: lines for people, or JSON for programs. Standard ``logging`` throughout."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, get_args

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error", "critical"]

LOG_VARIABLE = "DOVETAIL_LOG"
"""How the processes that a server starts learn of its format and level: both, with a comma between them."""

logger = logging.getLogger("dovetail")


def configure(format: Format, level: Level, request_id: Callable[[], str] = str) -> None:
    """Have this process, and those that it starts, log so.

    Args:
        level: of our own loggers; libraries are heard from warnings up.
        request_id: of the request that is being served, empty where there is none.
    """
    os.environ[LOG_VARIABLE] = f"{format},{level}"
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(request_id) if format == "json" else TextFormatter(request_id))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    logger.setLevel(level.upper())


def follow_parent() -> None:
    """Log as the process does that started this one, if it said how."""
    format, _, level = os.environ.get(LOG_VARIABLE, "").partition(",")
    if format in get_args(Format) and level in get_args(Level):
        configure(format, level)  # type: ignore[arg-type]  # which has just been seen to


def writes_json() -> bool:
    """Whether standard error gets JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def announce(text: str, level: int = logging.INFO, *, output: bool = False) -> None:
    """Tell whoever runs the server: as it is, or as a record where programs read the log.

    Args:
        output: it is what the command gives, and goes to standard output as it is.
    """
    if writes_json():
        logger.log(level, "%s", text)
    else:
        print(text, file=sys.stdout if output else sys.stderr, flush=True)


class TextFormatter(logging.Formatter):
    """Time, level, message, and whose request it was."""

    def __init__(self, request_id: Callable[[], str] = str) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s%(request)s", "%Y-%m-%d %H:%M:%S")
        self._request_id = request_id

    def format(self, record: logging.LogRecord) -> str:
        found = self._request_id()
        record.request = f" [{found}]" if found else ""
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """One object a line. What a record's ``fields`` hold, given as ``extra``, stands beside the rest."""

    def __init__(self, request_id: Callable[[], str] = str) -> None:
        super().__init__()
        self._request_id = request_id

    def format(self, record: logging.LogRecord) -> str:
        shown: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if found := self._request_id():
            shown["request_id"] = found
        shown |= getattr(record, "fields", {})
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        return json.dumps(shown, ensure_ascii=False, default=str)

"""Logging of a server's processes to standard error: lines for people, or JSON for programs. Standard ``logging``
throughout.
"""

from __future__ import annotations

import json
import logging
import logging.config
import os
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from dovetail.api.errors import DovetailError, UsageError
from dovetail.utils.terminal import printable_json, printable_line, printable_lines, say

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error", "critical"]

LOG_VARIABLE = "DOVETAIL_LOG"
"""How the processes that a server starts learn of its format, its level, and its file if there is one, with commas between them."""
TRACEBACKS_VARIABLE = "DOVETAIL_TRACEBACKS"
"""How they learn of ``--debug``: 1, or empty."""

FAILURE_SECONDS = 60.0
"""Least time between two lines about a log that cannot be written."""

logger = logging.getLogger("dovetail")
_find_request_id: Callable[[], str] = str


def configure(
    format: Format, level: Level, request_id: Callable[[], str] = str, config_file: str | None = None
) -> None:
    """Have this process, and those that it starts, log so.

    Args:
        level: of our own loggers; libraries are heard from warnings up.
        request_id: of the request that is being served, empty where there is none.
        config_file: JSON for :func:`logging.config.dictConfig`, which then says how to log instead.

    Raises:
        UsageError: the file cannot be read, or does not hold a configuration.
    """
    global _find_request_id
    _find_request_id = request_id
    os.environ[LOG_VARIABLE] = f"{format},{level},{config_file or ''}"
    logging.Handler.handleError = _handle_error  # type: ignore[method-assign, assignment]
    if config_file is not None:
        _read_config_file(config_file)
        return
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(request_id) if format == "json" else TextFormatter(request_id))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    logger.setLevel(level.upper())


def _read_config_file(name: str) -> None:
    try:
        with open(name, encoding="utf-8-sig") as file:
            config = json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"--log-config-file {name} cannot be read: {error}", "give a JSON file") from None
    if not isinstance(config, dict):
        raise UsageError(
            f"--log-config-file {name} holds a JSON {type(config).__name__}",
            "wanted an object, as logging.config.dictConfig takes it",
        )
    try:
        # The loggers of modules that are loaded already are to go on, unless the file says otherwise.
        logging.config.dictConfig({"disable_existing_loggers": False, **config})
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        raise UsageError(
            f"--log-config-file {name}: {' '.join(reason.split())}",
            'see logging.config.dictConfig in Python\'s documentation; it begins with "version": 1',
        ) from None
    logging.captureWarnings(True)


def follow_parent() -> None:
    """Log as the process does that started this one, if it said how."""
    format, level, file = [*os.environ.get(LOG_VARIABLE, "").split(",", 2), "", ""][:3]
    if format in get_args(Format) and level in get_args(Level):
        configure(format, level, config_file=file or None)  # type: ignore[arg-type]  # which has just been seen to


def writes_json() -> bool:
    """Whether logs are JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def show_tracebacks(wanted: bool) -> None:
    """Say whether to show the tracebacks of errors that tell in a line what is wrong (``--debug``)."""
    os.environ[TRACEBACKS_VARIABLE] = "1" if wanted else ""


def shows_tracebacks() -> bool:
    """Whether they are to be shown: with ``--debug``, and in a log that holds everything (``--log-level debug``)."""
    return bool(os.environ.get(TRACEBACKS_VARIABLE)) or logger.isEnabledFor(logging.DEBUG)


def report_fault(fault: BaseException, context: str = "", log: str = "dovetail.engine") -> None:
    """Log an error that tells in a line what is wrong, as a plugin's fault does; its traceback where it was asked for.

    Args:
        context: what became of it, which the error follows.
        log: the logger's name.
    """
    said = str(fault) if isinstance(fault, DovetailError) else f"{type(fault).__name__}: {fault}"
    text = f"{context}: {said}" if context else said
    logging.getLogger(log).error("%s", text, exc_info=fault if shows_tracebacks() else None)


def announce(text: str, level: int = logging.INFO, *, output: bool = False) -> None:
    """Print a line for the operator, or log it as a JSON record with ``--log-format json``.

    Args:
        output: the line is the command's result, and goes to standard output unchanged.
    """
    if writes_json():
        logger.log(level, "%s", text)
    elif output:
        print(printable_lines(text), flush=True)
    else:
        say(printable_lines(text))


def current_request_id() -> str:
    """Of the request that is being served, as :func:`configure` was told to find it; empty where there is none."""
    return _find_request_id()


_last_failure: dict[type[logging.Handler], float] = {}
_default_handle_error = logging.Handler.handleError


def _handle_error(handler: logging.Handler, record: logging.LogRecord) -> None:
    """When a log cannot be written, because its disk is full or its reader has left: say so now and then, in a line.
    logging would print a traceback for each record.
    """
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        _default_handle_error(handler, record)
        return
    now = time.monotonic()
    if now - _last_failure.get(type(handler), -FAILURE_SECONDS) >= FAILURE_SECONDS:
        _last_failure[type(handler)] = now
        where = getattr(handler, "baseFilename", "standard error")
        say(f"warning: the log to {where} cannot be written: {error.strerror or error}")


class TextFormatter(logging.Formatter):
    """Time, level, message, and whose request it was.

    Args:
        request_id: of the request; by default :func:`current_request_id`, so that a configuration file can name this class.
    """

    def __init__(self, request_id: Callable[[], str] | None = None) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s%(request)s", "%Y-%m-%d %H:%M:%S")
        self._request_id = request_id or current_request_id

    def format(self, record: logging.LogRecord) -> str:
        found = self._request_id()
        record.request = f" [{found}]" if found else ""
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's own name
        # One line, so that nothing that is quoted in it can pass for another.
        return printable_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return textwrap.indent(printable_lines(super().formatException(ei)), "  ")


class JsonFormatter(logging.Formatter):
    """One object per line. A record's ``fields``, given as ``extra``, are added to it."""

    def __init__(self, request_id: Callable[[], str] | None = None) -> None:
        super().__init__()
        self._request_id = request_id or current_request_id

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
        return printable_json(json.dumps(shown, ensure_ascii=False, default=str))

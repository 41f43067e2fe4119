"""Sends exceptions from one process to another."""

from __future__ import annotations

import logging
import traceback

from dovetail.api import errors
from dovetail.api.errors import DovetailError, EngineDeadError
from dovetail.engine import messages as m
from dovetail.utils import logs

BUG = "this is a bug in Dovetail; the traceback stands above"


def describe_error(error: BaseException) -> tuple[str, str, str]:
    """Convert an exception to the form of :attr:`dovetail.engine.messages.Answer.failure`."""
    if isinstance(error, DovetailError):
        return type(error).__name__, error.problem, error.hint
    return type(error).__name__, f"{type(error).__name__}: {error}", ""


def build_failed_message(error: BaseException) -> m.Failed:
    """Build the message that a process sends when an exception ends it. Call it inside the except block."""
    return m.Failed(*describe_error(error), traceback.format_exc())


def restore_error(name: str, problem: str, hint: str) -> DovetailError | None:
    """Restore the exception, if it is one of our own classes."""
    kind = getattr(errors, name, None)
    return kind(problem, hint) if isinstance(kind, type) and issubclass(kind, DovetailError) else None


def rebuild_error(failed: m.Failed, where: str = "the engine") -> DovetailError:
    """Convert a process's last message to one of our own exceptions.

    Args:
        where: what failed, as text.
    """
    if error := restore_error(failed.error, failed.problem, failed.hint):
        error.add_note(f"In {where}'s process:\n{failed.traceback}")  # seen with --debug
        return error
    logs.announce(failed.traceback, logging.ERROR)
    return EngineDeadError(f"{where} failed: {failed.problem}", BUG)


def explain_failure(failed: m.Failed) -> str:
    """Why a process ended that served, for its operator. The traceback is logged if it was asked for, and of an
    exception that is none of our errors in any case.
    """
    error = restore_error(failed.error, failed.problem, failed.hint)
    if error is None or logs.shows_tracebacks():
        logs.announce(failed.traceback, logging.ERROR)
    return f"{failed.problem}; {BUG}" if error is None else str(error)


def describe_exit(code: int) -> str:
    """Describe how a process ended."""
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

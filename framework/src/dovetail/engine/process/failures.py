"""Exceptions that cross from one process to another."""

from __future__ import annotations

import logging
import traceback

from dovetail.api import errors
from dovetail.api.errors import DovetailError, EngineDeadError
from dovetail.engine import messages as m
from dovetail.utils import logs


def describe_error(error: Exception) -> tuple[str, str, str]:
    """For :attr:`dovetail.engine.messages.Answer.failure`."""
    if isinstance(error, DovetailError):
        return type(error).__name__, error.problem, error.hint
    return type(error).__name__, f"{type(error).__name__}: {error}", ""


def build_failed_message(error: Exception) -> m.Failed:
    """The last words of a process, while the exception is being handled."""
    return m.Failed(*describe_error(error), traceback.format_exc())


def restore_error(name: str, problem: str, hint: str) -> DovetailError | None:
    """The exception again, if it was one of our own classes."""
    kind = getattr(errors, name, None)
    return kind(problem, hint) if isinstance(kind, type) and issubclass(kind, DovetailError) else None


def rebuild_error(failed: m.Failed, where: str = "the engine") -> DovetailError:
    """A process's last words as one of our own exceptions.

    Args:
        where: what failed, in words.
    """
    if error := restore_error(failed.error, failed.problem, failed.hint):
        error.add_note(f"In {where}'s process:\n{failed.traceback}")  # seen with --debug
        return error
    logs.announce(failed.traceback, logging.ERROR)
    return EngineDeadError(f"{where} failed: {failed.problem}", "this is a bug; the traceback stands above")


def describe_exit(code: int) -> str:
    """How a process ended."""
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

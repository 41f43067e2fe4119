"""Errors that a user can cause. Each message says what was wanted, what was found, and what to do.

The command line prints ``str(error)`` on one line and exits with ``exit_code``. The server turns ``RequestError`` into
a 4xx response. A bug in Dovetail is an ``assert`` or another exception, never one of these.
"""

from __future__ import annotations

from dovetail.api.text import one_line

MAX_PROBLEM, MAX_HINT = 1200, 300
"""Characters of a message's two halves. What is beyond is left out, because somebody has to read it."""


class DovetailError(Exception):
    """Base class of all errors that a user can cause and fix.

    Args:
        problem: what was wanted and what was found. Both are one line without control characters, whatever file or
            request they quote: others are written as escapes.
        hint: what to do about it.
    """

    exit_code = 1

    def __init__(self, problem: str, hint: str = "") -> None:
        self.problem = one_line(problem, MAX_PROBLEM)
        self.hint = one_line(hint, MAX_HINT)
        super().__init__(self.problem, self.hint)

    def __str__(self) -> str:
        return f"{self.problem}; {self.hint}" if self.hint else self.problem


class UsageError(DovetailError):
    """Options that contradict each other or are not valid."""

    exit_code = 2


class PluginError(DovetailError):
    """A plugin broke the rules of its hook or card.

    Attributes:
        culprit: the part of a plugin that the message names, where the engine found one; plugins leave it alone.
    """

    culprit: str = ""


class ResolutionError(DovetailError):
    """No installed plugin fits, or the requested one does not."""


class ConflictError(ResolutionError):
    """Two distributions offer the same name and the user has not chosen one."""


class ConfigError(DovetailError):
    """A model's configuration lacks a key, or has a value that is not supported."""


class CheckpointError(DovetailError):
    """Weight files are missing or truncated, or have tensors of the wrong name, shape or type."""


class RequestError(DovetailError):
    """A request cannot be served (HTTP 400).

    Args:
        param: the request field at fault, as in OpenAI's error object.
    """

    def __init__(self, problem: str, hint: str = "", *, param: str | None = None) -> None:
        super().__init__(problem, hint)
        self.param = param


class EngineDeadError(DovetailError):
    """The engine process ended; no request can be served until it runs again."""

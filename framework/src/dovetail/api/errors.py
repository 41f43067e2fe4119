"""Errors that a user can cause, each a sentence that says what was wanted, found, and what to do.

The command line prints ``str(error)`` on one line and exits with ``exit_code``; the server turns
``RequestError`` into a 4xx answer. A bug of ours is an ``assert`` or another exception, never one of these.
"""

from __future__ import annotations


class DovetailError(Exception):
    """Base of every error that is the user's to mend.

    Args:
        problem: what was wanted and what was found.
        hint: what to do about it.
    """

    exit_code = 1

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}; {self.hint}" if self.hint else self.problem


class UsageError(DovetailError):
    """Options that contradict each other or cannot be read."""

    exit_code = 2


class PluginError(DovetailError):
    """A plugin broke the contract of its hook or card."""


class ResolutionError(DovetailError):
    """No installed plugin fits, or the one asked for does not."""


class ConflictError(ResolutionError):
    """Two distributions offer the same name and the user has not said which to take."""


class ConfigError(DovetailError):
    """A model's configuration lacks a key or holds a value that the model cannot be built from."""


class CheckpointError(DovetailError):
    """Weight files are missing, truncated, or hold tensors of the wrong name, shape or type."""


class RequestError(DovetailError):
    """A request cannot be served as asked (HTTP 400).

    Args:
        param: the request field at fault, as OpenAI's error object names it.
    """

    def __init__(self, problem: str, hint: str = "", *, param: str | None = None) -> None:
        super().__init__(problem, hint)
        self.param = param


class EngineDeadError(DovetailError):
    """The engine process ended; no request can be served until it runs again."""

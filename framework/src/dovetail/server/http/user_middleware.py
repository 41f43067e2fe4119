"""The user's middleware: ``--middleware module.name``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

from dovetail.api.errors import UsageError
from dovetail.kernel.discovery import import_hint


def load_middleware(names: Sequence[str]) -> list[Middleware]:
    """Import the named middleware, outermost first: the last that was named.

    Args:
        names: ``module.name`` of an ASGI middleware class, or of an async function of a request and ``call_next``.

    Raises:
        UsageError: one cannot be imported, or is neither.
    """
    return [_load(name) for name in reversed(names)]


def _load(dotted: str) -> Middleware:
    module, _, name = dotted.replace(":", ".").rpartition(".")
    if not module:
        raise UsageError(
            f"--middleware {dotted}: wanted the name of a module and of what is in it", "such as module.Class"
        )
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except Exception as error:  # the module is foreign code: any exception is the reason why it cannot be loaded
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        missing = isinstance(error, ModuleNotFoundError) and error.name in (module, module.partition(".")[0])
        raise UsageError(
            f"--middleware {dotted} cannot be imported: {reason}", import_hint(module) if missing else "correct it"
        ) from error
    if inspect.isclass(found):
        return Middleware(found)  # type: ignore[arg-type]  # what it takes is known when it is made
    if inspect.iscoroutinefunction(found):
        return Middleware(BaseHTTPMiddleware, dispatch=found)
    raise UsageError(
        f"--middleware {dotted} is a {type(found).__name__}",
        "wanted a class of ASGI middleware, or an async function of a request and call_next",
    )

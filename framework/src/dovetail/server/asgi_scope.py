"""Helpers that read ASGI's scope of a request."""

from __future__ import annotations

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> bytes:
    """The first value of a request header, or an empty value."""
    return next((value for key, value in scope["headers"] if key == name), b"")


def route_path(scope: Scope) -> str:
    """The path that routes are matched with, without the prefix of a proxy (root path)."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root + "/") else path

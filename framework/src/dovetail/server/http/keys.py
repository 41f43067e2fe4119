"""API keys: where they are read from, and how a request sends one."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import re
import stat
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from dovetail.api.errors import UsageError
from dovetail.api.text import read_text
from dovetail.server.asgi_scope import header, route_path
from dovetail.server.http.errors import ApiError
from dovetail.server.settings import API_KEY_VARIABLE, FOREIGN_KEY_VARIABLE, ServerSettings
from dovetail.utils import logs

PUBLIC_PATHS = frozenset(("/health", "/healthz", "/livez", "/readyz"))
"""Paths for health probes, which need no key. They only say whether requests can be served."""
KEY = re.compile(r"[!-~]+")
"""Visible ASCII. Every client can send it in a header, and nothing trims it."""


def load_api_keys(settings: ServerSettings, environment: MutableMapping[str, str] = os.environ) -> ServerSettings:
    """The settings with the keys from the environment and from the key file added to ``api_key``.

    Args:
        environment: the variables are removed from it, so that no child process inherits the keys.

    Raises:
        UsageError: the file cannot be read, a named source holds no key, or a key has invalid characters.
    """
    keys = [_check_key(key, "--api-key") for key in settings.api_key]
    foreign = environment.pop(FOREIGN_KEY_VARIABLE, None)
    given = environment.pop(API_KEY_VARIABLE, None)
    if given is not None:
        found = re.split(r"[,\s]+", given.strip(", \t\r\n"))
        keys += [_check_key(key, API_KEY_VARIABLE) for key in found]
    if settings.api_key_file is not None:
        keys += _read_key_file(settings.api_key_file)
    if foreign is not None:
        if keys:
            logs.announce(f"note: {FOREIGN_KEY_VARIABLE} is set, and lets nobody in: other keys are given")
        else:
            logs.announce(
                f"note: clients must show the key in {FOREIGN_KEY_VARIABLE}; here its name is {API_KEY_VARIABLE}"
            )
            keys = [_check_key(foreign, FOREIGN_KEY_VARIABLE)]
    return settings.model_copy(update={"api_key": list(dict.fromkeys(keys)), "api_key_file": None})


def _read_key_file(name: str) -> list[str]:
    path = Path(name)
    try:
        lines = [line.strip() for line in read_text(path, pipes=True).splitlines()]
        if path.stat().st_mode & stat.S_IROTH:
            note = f"warning: every user of this machine can read the keys in {name}; chmod 600 it"
            logs.announce(note, logging.WARNING)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"--api-key-file: cannot read {name}: {reason}", "give a text file of one key a line"
        ) from None
    keys = [_check_key(line, name) for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UsageError(f"--api-key-file: {name} holds no key", "write one key a line")
    return keys


def _check_key(key: str, source: str) -> str:
    # An empty key would let everybody in. What was found is not shown: it may be most of a key.
    if not KEY.fullmatch(key):
        found = "one with other characters" if key else "an empty one"
        raise UsageError(
            f"wanted API keys of visible ASCII characters from {source}, found {found}", "choose another key"
        )
    return key


class ApiKeyMiddleware:
    """Accepts requests that send one of the keys, and all requests to the open paths."""

    def __init__(self, app: ASGIApp, keys: list[str]) -> None:
        self.app = app
        self.digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope) in PUBLIC_PATHS or self.allows(scope):
            await self.app(scope, receive, send)
        else:
            await _refusal(scope).response(scope)(scope, receive, send)

    def allows(self, scope: Scope) -> bool:
        # Digests have one length, and every key is compared, so the time does not depend on the keys.
        shown = [hashlib.sha256(key).digest() for key in read_request_keys(scope)]
        matches = [hmac.compare_digest(digest, known) for digest in shown for known in self.digests]
        return any(matches)


def read_request_keys(scope: Scope) -> Iterator[bytes]:
    """The keys that a request sends, as OpenAI's, Anthropic's and Azure's clients and browsers send them."""
    scheme, _, credentials = header(scope, b"authorization").partition(b" ")
    if scheme.lower() == b"bearer":
        yield credentials.strip()
    elif scheme.lower() == b"basic":
        try:
            user_and_password = base64.b64decode(credentials.strip(), validate=True)
        except binascii.Error:
            return
        yield user_and_password.partition(b":")[2]
    for name in (b"x-api-key", b"api-key"):
        if key := header(scope, name):
            yield key


def _refusal(scope: Scope) -> ApiError:
    shown = any(True for _ in read_request_keys(scope))
    message = "the API key is not valid" if shown else "wanted an API key, in the header Authorization: Bearer KEY"
    challenge = 'Basic realm="Dovetail", charset="UTF-8"' if _is_browser(scope) else "Bearer"
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": challenge})


def _is_browser(scope: Scope) -> bool:
    """Whether a browser opens a page. It can ask its user for the key as a password."""
    return scope["method"] == "GET" and (route_path(scope) == "/" or b"text/html" in header(scope, b"accept"))

"""A small client of OpenAI's API, for the terminal."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2

from dovetail.api.errors import DovetailError, UsageError
from dovetail.utils.terminal import printable_line

CONNECT_SECONDS = 5.0
MAX_QUOTED = 1000
"""Most characters of a server's message that are shown."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
REASONING_FIELDS = ("reasoning_content", "reasoning")
"""Fields in which servers send reasoning."""

Message = dict[str, str]


class ClientError(DovetailError):
    """The server cannot be reached, or refused the request."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a response."""

    text: str
    thought: bool = False


def server_root(url: str) -> str:
    """The root URL of a server, from what a user typed: with or without scheme and ``/v1``.

    Raises:
        UsageError: it is not a URL.
    """
    full = (url if "://" in url else f"http://{url}").rstrip("/").removesuffix("/v1")
    parts = urlsplit(full)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r} is not the URL of a server", "write it like http://127.0.0.1:8000")
    return full


def http_options(root: str, api_key: str | None) -> dict[str, Any]:
    """Arguments of an ``httpx2`` client, synchronous or asynchronous, for a server."""
    return {
        "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        # An answer may take any time to begin, and pause; only a server that is not there is given up on.
        "timeout": httpx2.Timeout(None, connect=CONNECT_SECONDS),
        # A proxy of the environment cannot reach this machine's own servers.
        "trust_env": urlsplit(root).hostname not in LOOPBACK,
    }


class ChatClient:
    """A client of one server.

    Args:
        url: of the server, with or without ``/v1``.
        api_key: if the server requires one.

    Raises:
        UsageError: ``url`` is not a URL.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        root = server_root(url)
        self.url = f"{root}/v1"
        self._http = httpx2.Client(**http_options(root, api_key))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def models(self) -> list[str]:
        """The names of the server's models.

        Raises:
            ClientError: the server cannot be reached.
        """
        with self._failures():
            answer = self._http.get(f"{self.url}/models")
            self._check(answer)
            return [str(model["id"]) for model in answer.json()["data"]]

    def main_model(self) -> str:
        """The first of :meth:`models`.

        Raises:
            ClientError: there is none, or the server cannot be reached.
        """
        names = self.models()
        if not names:
            raise ClientError(f"the server at {self.url} has no model", "start one with: dovetail serve MODEL")
        return names[0]

    def stream_chat(self, messages: Sequence[Message], **params: Any) -> Generator[Piece, None, None]:
        """Stream a chat completion. Closing the iterator aborts it.

        Raises:
            ClientError: the server refused, or failed during the stream.
        """
        return self._stream("chat/completions", {"messages": list(messages), **params})

    def stream_completion(self, prompt: str, **params: Any) -> Generator[Piece, None, None]:
        """Stream a completion. Closing the iterator aborts it.

        Raises:
            ClientError: the server refused, or failed during the stream.
        """
        return self._stream("completions", {"prompt": prompt, **params})

    def _stream(self, route: str, body: dict[str, Any]) -> Generator[Piece, None, None]:
        sent = {**body, "stream": True}
        with self._failures(), self._http.stream("POST", f"{self.url}/{route}", json=sent) as answer:
            if answer.is_error:
                answer.read()
                self._check(answer)
            for line in answer.iter_lines():
                if line == "data: [DONE]":
                    return
                if line.startswith("data:"):
                    yield from _pieces(json.loads(line[5:]))
        raise ClientError(f"the answer from {self.url} broke off", "look at the server's log")

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except httpx2.ConnectError as error:
            raise ClientError(f"no server answers at {self.url} ({error})", "start one with: dovetail serve") from None
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ClientError(f"the connection to {self.url} failed: {reason}", "look at the server's log") from None
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise ClientError(f"what answers at {self.url} does not speak OpenAI's API", "check the URL") from None

    def _check(self, answer: httpx2.Response) -> None:
        if answer.is_success:
            return
        try:
            message = _message(answer.json()["error"])
        except (ValueError, KeyError, TypeError):
            message = shorten(f"{answer.status_code} {answer.reason_phrase}")
        hint = "give the key with --api-key" if answer.status_code == 401 else ""
        raise ClientError(f"the server refused: {message}", hint)


def shorten(text: str) -> str:
    """What a server says, on one line of bounded length, for an error message."""
    shown = printable_line(" ".join(text[: 2 * MAX_QUOTED].split()))
    return shown if len(shown) <= MAX_QUOTED and len(text) <= 2 * MAX_QUOTED else shown[:MAX_QUOTED] + "…"


def _pieces(event: dict[str, Any]) -> Iterator[Piece]:
    if event.get("error"):
        raise ClientError(f"the server failed: {_message(event['error'])}")
    for choice in event["choices"]:
        if choice.get("text"):
            yield Piece(str(choice["text"]))
        delta = choice.get("delta") or {}
        thought = next((delta[name] for name in REASONING_FIELDS if delta.get(name)), None)
        if thought:
            yield Piece(str(thought), thought=True)
        if delta.get("content"):
            yield Piece(str(delta["content"]))


def _message(error: Any) -> str:
    text = str(error["message"]) if isinstance(error, dict) else str(error)
    return shorten(text)

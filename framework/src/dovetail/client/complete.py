"""Continues one text in the terminal."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from dovetail.api.errors import UsageError
from dovetail.client.http import ChatClient
from dovetail.utils.terminal import encodable, printable_answer


def run_completion(
    url: str, prompt: str | None, model: str | None = None, api_key: str | None = None, **params: Any
) -> int:
    """Stream the continuation of a text to standard output.

    Args:
        url: of a server with OpenAI's API.
        prompt: the text; read from standard input if None.
        model: its name there; the server's first one if None.
        api_key: if the server requires one.
        params: fields of the request, such as ``temperature``; None values are left out.

    Returns:
        The exit code.

    Raises:
        UsageError: the text is empty.
        ClientError: the server cannot be reached, or refused.
    """
    given = {name: value for name, value in params.items() if value is not None}
    with ChatClient(url, api_key) as client:
        model = model or client.main_model()
        text = _read() if prompt is None else prompt
        if not text:
            raise UsageError("the prompt is empty", "give one with --prompt TEXT, or on standard input")
        show = printable_answer if sys.stdout.isatty() else encodable
        # Closing aborts the completion on the server at once.
        with contextlib.closing(client.stream_completion(text, model=model, **given)) as pieces:
            try:
                for piece in pieces:
                    # As it is into files and pipes; a terminal would obey it.
                    sys.stdout.write(show(piece.text))
                    sys.stdout.flush()
            finally:
                sys.stdout.write("\n")
    return 0


def _read() -> str:
    if sys.stdin.isatty():
        print("Type the text to be continued, and Ctrl+D on a line of its own.", file=sys.stderr)
    # Editors and echo end a file with a line break, which is not part of the text.
    return sys.stdin.read().removeprefix("\ufeff").removesuffix("\n")

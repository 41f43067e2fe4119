"""The chat in the terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from dovetail.api.errors import DovetailError
from dovetail.client.http import ChatClient, ClientError, Message, Piece
from dovetail.client.thinking import split_thoughts
from dovetail.client.views import View, make_view
from dovetail.utils.terminal import printable_line

PROMPT = "> "
QUOTES = '"""'
HELP = '''/system TEXT   set the system prompt, and start afresh; without TEXT, remove it
/clear         start afresh
/help          show this
"""            begin and end a question of several lines
Ctrl+C         while an answer comes: stop it; otherwise: start afresh
Ctrl+D         leave'''


def run_chat(
    url: str,
    model: str | None = None,
    api_key: str | None = None,
    system: str | None = None,
    prompt: str | None = None,
    **params: Any,
) -> int:
    """Chat until the input ends.

    Args:
        url: of a server with OpenAI's API.
        model: its name there; the server's first one if None.
        api_key: if the server requires one.
        system: the system prompt.
        prompt: a single question, in place of the input.
        params: fields of every request, such as ``temperature``; None values are left out.

    Returns:
        The exit code.

    Raises:
        ClientError: the server cannot be reached, or (if not interactive) refused a question.
    """
    given = {name: value for name, value in params.items() if value is not None}
    with ChatClient(url, api_key) as client:
        # Asked even if it is not needed, so that a server that is not there is known before the first question.
        main = client.main_model()
        chat = Chat(client, make_view(), model or main, system, given)
        if prompt is not None:
            chat.ask(prompt)
        elif sys.stdin.isatty():
            _interact(chat)
        else:
            for line in sys.stdin:
                chat.handle_line(line.strip())
    return 0


class Chat:
    """One conversation, and the commands that change it."""

    def __init__(self, client: ChatClient, view: View, model: str, system: str | None, params: dict[str, Any]) -> None:
        self.client = client
        self.view = view
        self.model = model
        self.system = system
        self.params = params
        self.messages: list[Message] = []

    def handle_line(self, line: str) -> None:
        """Answer a question, or run a command.

        Raises:
            ClientError: the question was not answered; it is then not part of the conversation.
        """
        command, _, rest = line.partition(" ")
        if command == "/system":
            self.system = rest.strip() or None
            self.messages.clear()
        elif command == "/clear":
            self.messages.clear()
        elif command == "/help":
            print(HELP)
        elif command.startswith("/") and command[1:].isalpha():
            print(f"there is no command {printable_line(command)}; see /help", file=sys.stderr)
        elif line:
            self.ask(line)

    def ask(self, question: str) -> None:
        """Answer a question.

        Raises:
            ClientError: it was not answered; it is then not part of the conversation.
        """
        self.messages.append({"role": "user", "content": question})
        system = [{"role": "system", "content": self.system}] if self.system else []
        pieces = self.client.stream_chat(system + self.messages, model=self.model, **self.params)
        answer: list[str] = []
        try:
            # Closing aborts the answer on the server at once.
            with contextlib.closing(pieces):
                self.view.show(_record_answer(split_thoughts(pieces), answer))
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
        except DovetailError:
            self.messages.pop()
            raise
        # Models are made to go on from their answers alone, without earlier thoughts.
        self.messages.append({"role": "assistant", "content": "".join(answer).strip()})


def _record_answer(pieces: Iterable[Piece], answer: list[str]) -> Iterator[Piece]:
    for piece in pieces:
        if not piece.thought:
            answer.append(piece.text)
        yield piece


def _interact(chat: Chat) -> None:
    with contextlib.suppress(ImportError):
        import readline

        # Pasted text of several lines is then one question.
        readline.parse_and_bind("set enable-bracketed-paste on")
    print(f"{printable_line(chat.model)} at {chat.client.url}; /help tells what you can do, Ctrl+D leaves")
    while True:
        try:
            chat.handle_line(_read())
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            chat.messages.clear()
            print("\n(a new conversation)")
        except ClientError as error:
            print(f"error: {printable_line(str(error))}", file=sys.stderr)


def _read() -> str:
    line = input(PROMPT).strip()
    if not line.startswith(QUOTES):
        return line
    lines = [line.removeprefix(QUOTES)]
    while not lines[-1].rstrip().endswith(QUOTES):
        lines.append(input("… "))
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip()

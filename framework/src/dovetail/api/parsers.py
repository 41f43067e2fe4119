"""The interface of parsers, which find tool calls and reasoning in the text that a model writes.

Every family of models has its own format for both. A parser reads one format as the text arrives: it gets pieces, cut
anywhere, and returns the events that are certain after each. A whole output is one piece, so streams and whole outputs
always agree.

A parser serves one completion. The server parses reasoning first, and passes the rest to the tool parser.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Tool = Mapping[str, Any]
"""A function that the model may call: ``name``, and perhaps ``description`` and ``parameters`` (a JSON schema), as OpenAI's API has it."""


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Reasoning before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call begins; the following arguments belong to it."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the arguments of the newest call. All pieces of a call together are a JSON object, unless the
    output was cut off inside the call.
    """

    text: str


ToolEvent = Content | CallBegin | CallArguments
ReasoningEvent = Reasoning | Content


@dataclass(frozen=True)
class CallFormat:
    """How a model writes tool calls. A grammar is built from it: ``before``, calls with ``separator`` between them,
    ``after``.

    Attributes:
        calls: for each tool, in their order, the text before and after the JSON object of its arguments.
    """

    calls: tuple[tuple[str, str], ...]
    before: str = ""
    separator: str = ""
    after: str = ""


class ToolParser(ABC):
    """Finds tool calls in the text of one completion.

    White space that only separates calls from each other or from the text is not content. Text that looked like a call
    but is not one is returned unchanged as content, unless a part of it was already emitted as a call.

    Args:
        tools: of the request. Their schemas give the types of arguments, if the format does not.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self.tools = tools

    @abstractmethod
    def feed(self, text: str) -> Iterable[ToolEvent]:
        """Read one more piece of text. Returns the events that are now certain."""

    @abstractmethod
    def finish(self) -> Iterable[ToolEvent]:
        """Return the events of held-back text, after the last piece. Called once."""

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat | None:
        """How a model that must call one of these tools writes the call.

        None if the format does not write arguments as JSON. Then a model that must call a tool writes ``[{"name": …,
        "arguments": {…}}, …]`` instead, which the server parses itself.
        """
        return None

    @classmethod
    def call_id(cls, index: int, name: str) -> str:
        """An id for a call, in the form that the model's chat template expects in later messages.

        Args:
            index: of the call in its output.
        """
        return f"call_{os.urandom(12).hex()}"  # the module uuid would take longer to import than this one


class ReasoningParser(ABC):
    """Separates the reasoning from the answer in the text of one completion.

    Args:
        prompt: the end of the prompt, which may have opened the reasoning already, or closed it.
    """

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt

    @abstractmethod
    def feed(self, text: str) -> Iterable[ReasoningEvent]:
        """Read one more piece of text. Returns the events that are now certain."""

    @abstractmethod
    def finish(self) -> Iterable[ReasoningEvent]:
        """Return the events of held-back text, after the last piece. Called once."""

    @abstractmethod
    def reasoning_markers(self) -> tuple[str, str] | None:
        """The markers before and after the reasoning. A grammar lets the model think between them. None if the model
        does not think.

        Called before any text is fed. If the prompt opened the reasoning, the marker before it is empty.
        """

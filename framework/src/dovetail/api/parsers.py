"""The contract of parsers, which find tool calls and reasoning in the text that a model writes.

Every family of models has a notation of its own for both. A parser reads one, as the text arrives: it is fed pieces, cut anywhere, and
answers each with the events that have become certain. A whole answer is one piece, so that streams and whole answers cannot disagree.

A parser serves one completion. The server reads reasoning first, and gives what is no reasoning to the tool parser.
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
    """Thoughts that come before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call begins; the arguments that follow are its own."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the arguments of the call that began last. The pieces of a call joined are a JSON object, unless the output ended in its midst."""

    text: str


ToolEvent = Content | CallBegin | CallArguments
ReasoningEvent = Reasoning | Content


@dataclass(frozen=True)
class CallFormat:
    """How calls stand in the text, so that a grammar can keep to it: ``before``, calls with ``separator`` between them, ``after``.

    Attributes:
        calls: for each tool, in their order, what stands before and after the JSON object of its arguments.
    """

    calls: tuple[tuple[str, str], ...]
    before: str = ""
    separator: str = ""
    after: str = ""


class ToolParser(ABC):
    """Finds tool calls in the text of one completion.

    White space that only separates calls from each other or from the text is no content. What looks like a call but turns out to be none is content,
    as it stands, as long as nothing of it was handed out as a call.

    Args:
        tools: that the request offers; their schemas say of which type an argument is, where the notation does not.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self.tools = tools

    @abstractmethod
    def feed(self, text: str) -> Iterable[ToolEvent]:
        """What has become certain with this piece of the text."""

    @abstractmethod
    def finish(self) -> Iterable[ToolEvent]:
        """What was held back, when no more text will come. Called once, last."""

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat | None:
        """How a model that must call one of these tools writes it.

        None where the arguments are not written as JSON: then a model that must call writes ``[{"name": …, "arguments": {…}}, …]`` instead, which the
        server reads itself.
        """
        return None

    @classmethod
    def call_id(cls, index: int, name: str) -> str:
        """An id for a call, in the form that the model's chat template wants to see it in when the conversation goes on.

        Args:
            index: of the call in its answer.
        """
        return f"call_{os.urandom(12).hex()}"  # the module uuid would take longer to import than this one


class ReasoningParser(ABC):
    """Parts reasoning from the answer in the text of one completion.

    Args:
        prompt: the end of the prompt, which may have opened the reasoning already, or closed it.
    """

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt

    @abstractmethod
    def feed(self, text: str) -> Iterable[ReasoningEvent]:
        """What has become certain with this piece of the text."""

    @abstractmethod
    def finish(self) -> Iterable[ReasoningEvent]:
        """What was held back, when no more text will come. Called once, last."""

    @abstractmethod
    def reasoning_markers(self) -> tuple[str, str] | None:
        """What will stand before and after the reasoning, so that a grammar can let the model think before it keeps to a form; None where it will not think.

        Asked before any text is fed. A prompt that opened the reasoning leaves nothing to stand before it.
        """

"""What is asked of a process that runs chat templates, and what it answers: the messages of
:mod:`dovetail.engine.templates.process`.

A frame begins with its length. Questions are marshalled, since they hold what JSON can hold, which is more than
msgpack's integers and texts. Answers are msgpack of known types, since the process runs foreign code.
"""

from __future__ import annotations

import marshal
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dovetail.api.errors import RequestError
from dovetail.engine.templates.chat_template import ContentFormatOption, render_prompt
from dovetail.engine.templates.facts import SystemSupport, TemplateFacts
from dovetail.engine.templates.rendered_prompt import RenderedPrompt

HEADER = struct.Struct("<Q")
"""The length of the frame that follows."""
READY = HEADER.pack(0)
"""The frame that the process sends once it can be asked."""
TOKENS, TEMPLATE, FACTS, RENDER = "tokens", "template", "facts", "render"
"""The questions: control tokens and a template for later ones, which have no answer; facts; a rendered conversation."""


@dataclass(frozen=True, slots=True)
class RenderCall:
    """A conversation to render. The attributes are those of :func:`dovetail.engine.templates.chat_template.render`."""

    template: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)
    content_format: ContentFormatOption = "auto"


def run_call(call: RenderCall, control_tokens: Sequence[str] = ()) -> RenderedPrompt:
    """Render a conversation in this process.

    Args:
        control_tokens: the texts of the vocabulary's control tokens.

    Raises:
        RequestError: the template is malformed, refuses the messages, or fails on them.
    """
    return render_prompt(
        call.template,
        call.messages,
        control_tokens=control_tokens,
        tools=call.tools,
        documents=call.documents,
        add_generation_prompt=call.add_generation_prompt,
        continue_final_message=call.continue_final_message,
        variables=call.variables,
        content_format=call.content_format,
    )


class Rendered(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A :class:`RenderedPrompt`. Its text is UTF-8, in which halves of surrogate pairs stay."""

    text: bytes
    plain: tuple[int, ...]

    def unpack(self) -> RenderedPrompt:
        return RenderedPrompt(self.text.decode("utf-8", "surrogatepass"), self.plain)


class Facts(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A :class:`TemplateFacts`."""

    shows_tools: bool
    system: SystemSupport
    matches: frozenset[str]

    def unpack(self) -> TemplateFacts:
        return TemplateFacts(self.shows_tools, self.system, self.matches)


class Failed(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A :class:`~dovetail.api.errors.RequestError`."""

    problem: str
    hint: str
    param: str | None

    def unpack(self) -> Any:
        raise RequestError(self.problem, self.hint, param=self.param)


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """
    Attributes:
        last: the process ends after this answer.
    """

    content: Rendered | Facts | Failed
    last: bool = False


_encoder, _decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Answer)


def encode_question(kind: str, *fields: Any) -> bytes:
    """A question as a frame.

    Raises:
        ValueError: a field holds something else than plain data, or is nested too deeply.
    """
    content = marshal.dumps((kind, *fields))
    return HEADER.pack(len(content)) + content


def decode_question(content: bytes) -> tuple[str, list[Any]]:
    kind, *fields = marshal.loads(content)
    return kind, fields


def encode_answer(answer: Answer) -> bytes:
    content = _encoder.encode(answer)
    return HEADER.pack(len(content)) + content


def decode_answer(content: bytes) -> Answer:
    """
    Raises:
        msgspec.MsgspecError: it is no answer.
    """
    return _decoder.decode(content)


def render_fields(call: RenderCall) -> tuple[Any, ...]:
    """The fields of a :data:`RENDER` question behind the template."""
    return (
        list(call.messages),
        None if call.tools is None else list(call.tools),
        None if call.documents is None else list(call.documents),
        call.add_generation_prompt,
        call.continue_final_message,
        dict(call.variables),
        call.content_format,
    )

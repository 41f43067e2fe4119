"""Chat templates: render the messages of a conversation as the text that a model continues.

Templates are Jinja programs that come with a model, written for the environment of transformers; this module provides
the same one. They are not trusted: they run in Jinja's sandbox and only see plain data.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dovetail.api.errors import ConfigError, RequestError
from dovetail.api.text import BOM, one_line, read_text
from dovetail.engine.templates.control_tokens import find_content_tokens
from dovetail.engine.templates.formats import ROLES, TOOL, detect_format
from dovetail.engine.templates.literals import Literals, read_literals
from dovetail.engine.templates.messages import ContentFormat, Message, MessageFormat, prepare_message
from dovetail.engine.templates.rendered_prompt import RenderedPrompt

ContentFormatOption = Literal["auto", "string", "openai"]
"""The content format for a template: the one that it accepts, strings, or lists of parts."""
END_MARK = "\ufdd0end-of-final-message\ufdd0 "
"""Marks the end of the message to be continued while it is rendered. U+FDD0 never occurs in Unicode text; the space
shows whether the template trims.
"""


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's text for training; here only its contents are rendered."""

    tags = {"generation"}

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


def _raise_refusal(message: str) -> None:
    raise RequestError(f"the chat template refuses these messages: {one_line(str(message))}", param="messages")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _format_now(format: str) -> str:
    return datetime.now().strftime(format)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise_refusal, strftime_now=_format_now, dict=_dict)
    return environment


def parse(template: str) -> nodes.Template:
    """Parse a template.

    Raises:
        jinja2.TemplateSyntaxError: the template is malformed.
    """
    return _environment().parse(template.removeprefix(BOM))


@functools.lru_cache(maxsize=32)
def _compile(template: str) -> tuple[jinja2.Template, ContentFormat]:
    try:
        return _environment().from_string(template.removeprefix(BOM)), _detect_content_format(parse(template))
    except Exception as error:  # the template is foreign code, whose translation to Python can fail in any way
        if isinstance(error, jinja2.TemplateSyntaxError):
            said = f"line {error.lineno}: {one_line(error.message or '')}"
        else:
            said = one_line(f"{type(error).__name__}: {error}")
        raise RequestError(
            f"the chat template cannot be read: {said}",
            "correct it, or give another one with --chat-template",
            param="chat_template",
        ) from error


def _detect_content_format(tree: nodes.Template) -> ContentFormat:
    """Detect whether the template loops over a message's content, and whether it checks first if the content is a
    string.
    """
    names = {"content"}

    def is_content(node: nodes.Node) -> bool:
        if isinstance(node, nodes.Filter) and node.node is not None:
            return is_content(node.node)
        if isinstance(node, nodes.Call):  # message.get("content")
            by_get = isinstance(node.node, nodes.Getattr) and node.node.attr == "get" and bool(node.args)
            return by_get and isinstance(node.args[0], nodes.Const) and node.args[0].value == "content"
        if isinstance(node, nodes.Getattr):
            return node.attr == "content"
        if isinstance(node, nodes.Getitem):
            return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
        return isinstance(node, nodes.Name) and node.name in names

    for assignment in tree.find_all(nodes.Assign):
        if isinstance(assignment.target, nodes.Name) and is_content(assignment.node):
            names.add(assignment.target.name)
    if not any(is_content(loop.iter) for loop in tree.find_all(nodes.For)):
        return "string"
    asks = any(test.name == "string" and is_content(test.node) for test in tree.find_all(nodes.Test))
    return "either" if asks else "openai"


@functools.lru_cache(maxsize=32)
def _read_literals(template: str) -> Literals:
    return read_literals(parse(template))


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    variables: Mapping[str, Any] | None = None,
    content_format: ContentFormatOption = "auto",
) -> str:
    """Render a conversation as text. Arguments and errors as for :func:`render_prompt`."""
    return render_prompt(
        template,
        messages,
        tools=tools,
        documents=documents,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        variables=variables,
        content_format=content_format,
    ).text


def render_prompt(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    control_tokens: Sequence[str] = (),
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    variables: Mapping[str, Any] | None = None,
    content_format: ContentFormatOption = "auto",
) -> RenderedPrompt:
    """Render a conversation, and find the control tokens in what messages say.

    Args:
        template: Jinja source.
        messages: as in OpenAI's API; they are not changed.
        control_tokens: those of the vocabulary. Without them, none is looked for.
        tools: function definitions, as in OpenAI's API.
        documents: for templates that quote sources.
        add_generation_prompt: end with the beginning of the assistant's next message.
        continue_final_message: end inside the last message, so that the model continues it.
        variables: further variables of the template, such as ``bos_token`` or ``enable_thinking``. Control tokens in
            those named ``…_token`` are the template's.
        content_format: the format of contents; by default the one that the template accepts, for each role.

    Raises:
        RequestError: the template is malformed, refuses the messages, or fails on them.
    """
    if continue_final_message and add_generation_prompt:
        raise RequestError(
            "add_generation_prompt and continue_final_message exclude each other",
            "set one of them to false",
            param="continue_final_message",
        )
    compiled, _ = _compile(template)
    try:
        prepared = [
            prepare_message(message, find_message_format(template, _role(message), content_format))
            for message in messages
        ]
        if continue_final_message:
            _mark_end(prepared)
        values = {
            "strftime_now": datetime.now().strftime,  # the same in all renderings
            **(variables or {}),
            "messages": prepared,
            "tools": list(tools) if tools else None,
            "documents": list(documents) if documents else None,
            "add_generation_prompt": add_generation_prompt,
        }
        text = compiled.render(values)
        plain: tuple[int, ...] = ()
        if control_tokens:
            given = {name: value for name, value in values.items() if not name.endswith("_token")}
            plain = find_content_tokens(
                text,
                given,
                control_tokens,
                _read_literals(template),
                lambda other: compiled.render({**values, **other}),
            )
    except RequestError:
        raise
    except Exception as error:  # the template is foreign code: any exception is a refusal
        raise RequestError(
            f"the chat template fails on these messages: {one_line(f'{type(error).__name__}: {error}')}",
            "check roles and contents against what the template expects, or give another one with --chat-template",
            param="messages",
        ) from error
    if not continue_final_message:
        return RenderedPrompt(text, plain)
    text = _cut_at_end_mark(text)
    return RenderedPrompt(text, tuple(start for start in plain if start < len(text)))


def _role(message: Any) -> str:
    """The role of a message, which may be malformed."""
    role = message.get("role") if isinstance(message, Mapping) else None
    return role if isinstance(role, str) else ""


def find_message_format(template: str, role: str, content_format: ContentFormatOption = "auto") -> MessageFormat:
    """The message format of a template for one role.

    Args:
        template: Jinja source.
        content_format: if it is not "auto", contents have this format, whatever the template accepts.

    Raises:
        RequestError: the template is malformed.
    """
    found = _detect_format(template, role if role in ROLES else "")
    return found if content_format == "auto" else replace(found, content=content_format)


@functools.lru_cache(maxsize=128)
def _detect_format(template: str, role: str) -> MessageFormat:
    compiled, fallback = _compile(template)
    if not role:
        return MessageFormat(fallback)

    def try_render(messages: Sequence[Message], with_tools: bool) -> str | None:
        tools = [TOOL] if with_tools else None
        try:
            return compiled.render(
                messages=messages, tools=tools, add_generation_prompt=False, bos_token="", eos_token=""
            )
        except Exception:  # as in render
            return None

    return detect_format(try_render, role, fallback)


def _mark_end(messages: list[Message]) -> None:
    """Append the mark to the last message's text."""
    content = messages[-1]["content"] if messages else None
    if isinstance(content, str):
        messages[-1]["content"] = content + END_MARK
        return
    for part in reversed(content or []):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            part["text"] += END_MARK
            return
    raise RequestError(
        "continue_final_message wants a last message with text to continue", param="continue_final_message"
    )


def _cut_at_end_mark(text: str) -> str:
    """The text before the mark. If the template trimmed the message, trailing white space is removed too."""
    end = text.rfind(END_MARK.strip())
    if end < 0:
        raise RequestError(
            "the chat template left the last message out, so that it cannot be continued",
            "leave out continue_final_message",
            param="continue_final_message",
        )
    return text[:end] if text.startswith(END_MARK, end) else text[:end].rstrip()


def load_template(given: str) -> str:
    """The value of ``--chat-template``: a file, or the template itself.

    Raises:
        ConfigError: it looks like a file name, and there is no such file.
    """
    try:
        if Path(given).is_file():
            return read_text(given)
    except (OSError, ValueError):  # a long text is no file name
        pass
    if "{" not in given and "\n" not in given:
        raise ConfigError(
            f"wanted a chat template, found neither a file nor Jinja in {given!r}", "correct --chat-template"
        )
    return given.removeprefix(BOM)

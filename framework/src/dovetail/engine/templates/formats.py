"""Detects the message format of a chat template by rendering small conversations with it.

Templates are programs, and their source only shows in simple cases how they handle a list of parts. For example, a
template may accept parts for user messages, but append a text to the system message, which fails with a list, or write
the list in Python's notation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dovetail.engine.templates.messages import ArgumentsFormat, ContentFormat, Message, MessageFormat

TryRender = Callable[[Sequence[Message], bool], str | None]
"""A function from messages in the tested format, and whether there are tools, to the text; None if the template
refuses them.
"""

ROLES = ("system", "developer", "user", "assistant", "tool")
WORDS = ("quokka", "wombat", "numbat", "bandicoot")
"""Words that no template contains, for the tested contents."""
KEY, VALUE = "bilbyname", "bilbyvalue"
"""The same for the tested arguments."""
_WRITTEN_PART = re.compile(r"""['"]text['"]\s*:""")
_WRITTEN_OBJECT = re.compile(rf"{{'{KEY}'\s*:")
"""Texts which show that a list or an object was rendered in Python's or JSON's notation."""
CALL_ID = "callid000"  # some templates require nine letters and digits
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look.",
        "parameters": {"type": "object", "properties": {KEY: {"type": "string"}}, "required": []},
    },
}


def detect_format(try_render: TryRender, role: str, fallback: ContentFormat) -> MessageFormat:
    """Detect the message format of a template for one role.

    Args:
        fallback: the result if no message of that role can be rendered.
    """
    arguments, null_content = _detect_arguments(try_render) if role in ("assistant", "tool") else ("object", True)
    as_text = arguments == "text"
    string, parts = (
        {
            number
            for number, (conversation, tools) in enumerate(_conversations(role, as_text, in_parts=in_parts))
            if _shows(try_render(conversation, tools), conversation)
        }
        for in_parts in (False, True)
    )
    content: ContentFormat = "either" if string == parts else "string" if len(string) >= len(parts) else "openai"
    return MessageFormat(content if string or parts else fallback, arguments, null_content)


def _conversations(role: str, as_text: bool, *, in_parts: bool) -> Iterator[tuple[list[Message], bool]]:
    """Test conversations with messages of a role, each with whether there are tools."""

    def say(first: int = 0) -> Message:
        words = WORDS[first : first + 2]
        content = [{"type": "text", "text": word} for word in words] if in_parts else " ".join(words)
        return {"role": role, "content": content}

    user, answer = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
    call = _call("{}" if as_text else {}, "")
    match role:
        case "user":
            found = [[say()], [say(), answer, say(2)]]
        case "assistant":
            found = [[user, say()], [user, say(), user], [user, {**call, **say()}, _result()]]
        case "tool":
            result = {**_result(), **say()}
            found = [[user, call, result], [user, call, result, answer, user]]
        case _:
            found = [[say(), user], [say(), user, answer, user], [user, answer, say(), user]]
    for conversation in found:
        yield conversation, False
        yield conversation, True


def _shows(text: str | None, conversation: Sequence[Message]) -> bool:
    """Whether a text contains every test word, and no list in Python's or JSON's notation."""
    said = repr([message["content"] for message in conversation])
    return text is not None and all(word in text for word in WORDS if word in said) and not _WRITTEN_PART.search(text)


def _detect_arguments(try_render: TryRender) -> tuple[ArgumentsFormat, bool]:
    """Detect the format of arguments, and whether the content of a message with only calls can be None."""
    shown: dict[tuple[str, str | None], set[int]] = {
        (kind, content): {
            number
            for number, conversation in enumerate(_call_conversations(_call(arguments, content)))
            if _shows_arguments(try_render(conversation, True))
        }
        for kind, arguments in (("object", {KEY: VALUE}), ("text", f'{{"{KEY}": "{VALUE}"}}'))
        for content in (None, "")
    }
    kinds = {kind for (kind, _), numbers in shown.items() if numbers}
    arguments: ArgumentsFormat = "either" if len(kinds) == 2 else "text" if "text" in kinds else "object"
    kind = "text" if arguments == "text" else "object"
    return arguments, shown[kind, None] >= shown[kind, ""]


def _call_conversations(call: Message) -> tuple[list[Message], ...]:
    user = {"role": "user", "content": "Why?"}
    return [user, call, _result()], [user, call]


def _shows_arguments(text: str | None) -> bool:
    # The tool's own description holds the name of the argument, but not its value.
    return text is not None and VALUE in text and not _WRITTEN_OBJECT.search(text)


def _call(arguments: Any, content: str | None) -> Message:
    function = {"name": TOOL["function"]["name"], "arguments": arguments}
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"id": CALL_ID, "type": "function", "function": function}],
    }


def _result() -> Message:
    return {"role": "tool", "content": "Seen.", "tool_call_id": CALL_ID, "name": TOOL["function"]["name"]}

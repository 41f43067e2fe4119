"""The body of ``POST /v1/messages``, as Anthropic's API has it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from dovetail.server.protocol.base import Body, Items
from dovetail.server.protocol.fields import Arguments, Int, No, Number, Rank
from dovetail.server.tools.provider_tools import drop_provider_tools

Ignored = dict[str, Any] | None
"""Caching hints. They are ignored, because prefixes are always cached."""


class TextBlock(Body):
    """Text content."""

    type: Literal["text"]
    text: str
    cache_control: Ignored = None
    citations: list[Any] | None = None


class ThinkingBlock(Body):
    """Reasoning of an earlier message."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Body):
    """Encrypted reasoning. It is ignored."""

    type: Literal["redacted_thinking"]
    data: str


class Direct(Body):
    """The caller of a tool: the model itself, not a program that it wrote."""

    type: Literal["direct"]


class ToolUseBlock(Body):
    """A tool call of an earlier message."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: Arguments = None
    cache_control: Ignored = None
    caller: Direct | None = None
    toolset_name: None = None


class ToolResultBlock(Body):
    """The result of a tool call."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Items[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: Ignored = None
    toolset_name: None = None


Block = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")
]


Blocks = Annotated[
    list[Block],
    # Read as blocks at once, so that what is wrong with one is said of it.
    BeforeValidator(lambda value: [{"type": "text", "text": value}] if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}),
]


class MessageParam(Body):
    """One message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: Blocks


class CustomTool(Body):
    """A function that the model may call."""

    type: Literal["custom"] | None = None
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    description: str | None = None
    input_schema: dict[str, Any] = Field(description="a JSON schema of an object")
    input_examples: Items[dict[str, Any]] | None = Field(None, description="are shown to the model with the schema")
    strict: bool | None = None
    allowed_callers: Items[Literal["direct"]] | None = None
    defer_loading: No | None = None
    eager_input_streaming: bool | None = Field(None, description="has no effect: inputs are streamed as they are made")
    cache_control: Ignored = None


class ToolChoice(Body):
    """Whether a tool must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(None, description="with the type tool")
    disable_parallel_tool_use: bool | None = None


class Thinking(Body):
    """Whether the model reasons first, if its template has such a switch."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Int | None = Field(None, description="a hint; the model thinks for as long as it does")
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Body):
    """The format that the output must have."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    """Settings of the output."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="for templates that know it"
    )
    format: OutputFormat | None = None


class CountTokensRequest(Body):
    """The body of ``POST /v1/messages/count_tokens``."""

    model: str | None = None
    messages: Items[MessageParam] = Field(min_length=1)
    system: str | Items[TextBlock] | None = None
    tools: Annotated[Items[CustomTool] | None, BeforeValidator(drop_provider_tools)] = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = Field(None, description="the older place of output_config.format")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables for the chat template")
    cache_control: Ignored = None


class MessagesRequest(CountTokensRequest):
    """The body of ``POST /v1/messages``. The fields after ``stream`` are additions of this server."""

    max_tokens: Int
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Int | None = None
    stop_sequences: Items[str] | None = None
    metadata: dict[str, Any] | None = Field(None, description="identifiers; have no effect")
    service_tier: Literal["auto", "standard_only"] | None = None
    stream: bool | None = None
    min_p: Number | None = None
    seed: Int | None = None
    priority: Rank | None = Field(None, description="lower runs first, under --scheduling-policy priority")
    cache_salt: str | None = Field(
        None, min_length=1, description="share cached prefixes only with requests of the same salt"
    )

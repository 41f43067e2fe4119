"""The body of ``POST /v1/responses``, as OpenAI's Responses API has it, with vLLM's additions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from dovetail.server.http.errors import ApiError, describe
from dovetail.server.protocol.base import Body, Items
from dovetail.server.protocol.fields import Arguments, Int, Metadata, No
from dovetail.server.protocol.requests import Sampling
from dovetail.server.responses.tools import ToolChoice, Tools

LOGPROBS = "message.output_text.logprobs"
Status = Literal["in_progress", "completed", "incomplete"]


def _drop_nulls(value: Any) -> Any:
    """Remove null fields from an object, because clients send back whole objects that they received."""
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


def item_type(item: Any) -> str | None:
    """The type of an item. Messages and references may omit it."""
    if not isinstance(item, dict):
        return getattr(item, "type", None)
    kind = item.get("type")
    return kind or ("message" if "role" in item else "item_reference" if "id" in item else None)


def _type_tag(value: Any) -> str:
    """Tag that selects the type of a union field. The brackets distinguish it from field names in error locations."""
    return f"[{item_type(value)}]"


class InputText(Body):
    """Text of a message, or of a tool result."""

    type: Literal["input_text", "text"]
    text: str


class OutputText(Body):
    """Text that the model wrote."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    parsed: Any = Field(None, description="what some clients add; has no effect")


class Refusal(Body):
    """Text in which the model refused."""

    type: Literal["refusal"]
    refusal: str


class SummaryText(Body):
    """A summary of reasoning."""

    type: Literal["summary_text"]
    text: str


class ReasoningText(Body):
    """Reasoning text."""

    type: Literal["reasoning_text"]
    text: str


def _part(value: Any) -> Any:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ("input_image", "input_file", "input_audio"):
        message = f"this server does not read parts of type {describe(kind)} yet; send input_text"
        raise ApiError(400, message, param="input", code="unsupported_value")
    return _drop_nulls(value)


Part = Annotated[
    Annotated[InputText, Tag("[input_text]")]
    | Annotated[InputText, Tag("[text]")]
    | Annotated[OutputText, Tag("[output_text]")]
    | Annotated[Refusal, Tag("[refusal]")],
    Discriminator(
        _type_tag,
        custom_error_type="wanted",
        custom_error_message='parts such as {"type": "input_text", "text": "…"}',
    ),
    BeforeValidator(_part),
]


class MessageItem(Body):
    """A message."""

    type: Literal["message"] | None = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Items[Part]
    id: str | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class FunctionCallItem(Body):
    """A function call of an earlier response."""

    type: Literal["function_call"]
    call_id: str = Field(min_length=1)
    name: str
    namespace: str | None = None
    arguments: Arguments = None
    id: str | None = None
    status: Status | None = None
    parsed_arguments: Any = Field(None, description="what some clients add; has no effect")


class FunctionCallOutputItem(Body):
    """The result of a function call."""

    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1)
    output: str | Items[Part]
    name: str | None = None
    namespace: str | None = None
    id: str | None = None
    status: Status | None = None


class ReasoningItem(Body):
    """Reasoning of an earlier response."""

    type: Literal["reasoning"]
    summary: Items[SummaryText] = []
    content: Items[ReasoningText] = []
    id: str | None = None
    status: Status | None = None


class ItemReference(Body):
    """A reference to a stored item of a response or of its input."""

    type: Literal["item_reference"] = "item_reference"
    id: str = Field(min_length=1)


ITEMS = ("message", "function_call", "function_call_output", "reasoning", "item_reference")


def _items(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    for index, item in enumerate(value):
        kind = item.get("type") if isinstance(item, dict) else None
        if isinstance(kind, str) and kind not in ITEMS:
            message = (
                f"input[{index}].type: this server reads items of the types {', '.join(ITEMS)}, found {describe(kind)}"
            )
            raise ApiError(400, message, param=f"input[{index}].type", code="unsupported_value")
    return [_drop_nulls(item) for item in value]


Item = Annotated[
    Annotated[MessageItem, Tag("[message]")]
    | Annotated[FunctionCallItem, Tag("[function_call]")]
    | Annotated[FunctionCallOutputItem, Tag("[function_call_output]")]
    | Annotated[ReasoningItem, Tag("[reasoning]")]
    | Annotated[ItemReference, Tag("[item_reference]")],
    Discriminator(
        _type_tag,
        custom_error_type="wanted",
        custom_error_message='items such as {"role": "user", "content": "…"}',
    ),
]


class TextFormat(Body):
    """The format of the output. It is always enforced, whether or not ``strict`` is set."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(None, description="with json_schema")
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="with json_schema")
    description: str | None = None
    strict: bool | None = None


class TextConfig(Body):
    """Settings of the output text."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = Field(None, description="for templates that know it")


class ReasoningConfig(Body):
    """Settings of reasoning."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="for templates that know it; none turns thinking off"
    )
    summary: Literal["auto", "concise", "detailed"] | None = Field(
        None, description="reasoning items hold the thoughts themselves, and no summary"
    )
    generate_summary: Literal["auto", "concise", "detailed"] | None = Field(None, description="older name of summary")


class ResponseStreamOptions(Body):
    """Options of a stream."""

    include_obfuscation: No | None = None


Include = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
]


class ResponsesRequest(Sampling):
    """The body of ``POST /v1/responses``."""

    input: str | Annotated[Items[Item], BeforeValidator(_items)]
    instructions: str | None = Field(None, description="a system message; not inherited from the previous response")
    previous_response_id: str | None = Field(None, description="go on from there")
    max_output_tokens: Int | None = None
    stream_options: ResponseStreamOptions | None = None
    store: bool | None = Field(None, description="keep the response (default true, where the server keeps any)")
    background: bool | None = Field(None, description="answer at once, and generate afterwards")
    metadata: Metadata | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = Field(None, description="more than one call in an answer (default true)")
    max_tool_calls: Int | None = Field(None, description="of calls of the server's own tools, which has none")
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description="auto leaves out the oldest turns of a conversation that is too long (default disabled)"
    )
    include: Items[Include] | None = Field(
        None,
        description="logprobs; reasoning.encrypted_content is for thoughts to be sent back that were not kept, as the text can that reasoning items always hold; "
        "the others belong to what answers of this server never hold",
    )
    top_logprobs: Int | None = Field(None, ge=0, le=20, description="so many alternatives to each token")
    service_tier: Literal["auto", "default", "flex", "priority", "scale"] | None = Field(
        None, description="there is one"
    )
    client_metadata: dict[str, Any] | None = Field(None, description="labels; have no effect")
    chat_template: str | None = Field(None, description="a jinja template, if the server trusts requests with it")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables for the chat template")
    thinking: bool | None = Field(None, description="sets the template's enable_thinking")

    @property
    def include_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())

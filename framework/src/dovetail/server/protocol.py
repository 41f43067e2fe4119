"""The bodies of requests, as far as OpenAI's API and vLLM's additions to it are built.

Types are strict, as in OpenAI's API: a number in quotes is no number.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from dovetail.server.errors import describe


def _whole(value: Any) -> Any:
    # JSON has one kind of number, so 16.0 is an integer to some clients.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _wanted(what: str) -> PydanticCustomError:
    return PydanticCustomError("wanted", "{what}", {"what": what})


def _read_stop(value: Any) -> list[str] | None:
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ("Single", "Multi", "Multiple"):
        value = next(iter(value.values()))
    if isinstance(value, str):
        return [value]
    if value is None or (isinstance(value, list) and all(isinstance(part, str) for part in value)):
        return value
    raise _wanted("a text or a list of texts")


def _read_content(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise _wanted("a text or a list of content parts")
    return "\n".join(map(_part_text, value))


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal") and isinstance(part.get(kind), str):
        return str(part[kind])
    if isinstance(kind, str) and kind not in ("text", "refusal"):
        raise _wanted(f"text parts (this server does not read parts of type {describe(kind)} yet)")
    raise _wanted('content parts such as {"type": "text", "text": "…"}')


def _read_prompt(value: Any) -> list[str] | list[list[int]]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(part, str) for part in value):
            return value
        if _are_ids(value):
            return [value]
        if all(isinstance(part, list) and part and _are_ids(part) for part in value):
            return value
    raise _wanted("a text, a list of texts, a list of token ids, or a list of lists of token ids")


def _are_ids(value: list[Any]) -> bool:
    return all(type(part) is int and part >= 0 for part in value)


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": _TEXT},
    "required": ["type", "text"],
}

Int = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Stop = Annotated[
    list[str] | None, PlainValidator(_read_stop), WithJsonSchema({"anyOf": [_TEXT, _TEXTS, {"type": "null"}]})
]
Content = Annotated[
    str | None,
    BeforeValidator(_read_content),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _PART}, {"type": "null"}]}),
]
Prompt = Annotated[
    list[str] | list[list[int]],
    PlainValidator(_read_prompt),
    WithJsonSchema(
        {"anyOf": [_TEXT, {**_TEXTS, "minItems": 1}, _IDS, {"type": "array", "items": _IDS, "minItems": 1}]}
    ),
]


class Body(BaseModel):
    """Part of a request."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())


class StreamOptions(Body):
    """What a stream carries besides text."""

    include_usage: bool | None = Field(None, description="send the usage in a chunk of its own at the end")
    continuous_usage_stats: bool | None = Field(None, description="send the usage so far in every chunk")
    include_obfuscation: Literal[False] | None = None


class GenerationRequest(Body):
    """What the routes that generate text share."""

    model: str | None = Field(None, description="a name from /v1/models; may be left out")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Int | None = Field(None, description="completions of each prompt")
    best_of: Int | None = Field(None, description="must equal n")
    max_tokens: Int | None = None
    min_tokens: Int | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Int | None = None
    min_p: Number | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    repetition_penalty: Number | None = None
    seed: Int | None = None
    stop: Stop = None
    stop_token_ids: list[Int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = Field(None, description="let the tokenizer add its own tokens, such as BOS")
    request_id: str | None = Field(None, pattern=r"^[\w.:-]{1,128}$", description="becomes part of the answer's id")
    user: str | None = Field(None, description="an identifier; has no effect")
    safety_identifier: str | None = Field(None, description="an identifier; has no effect")
    prompt_cache_key: str | None = Field(None, description="an identifier; has no effect")
    session_id: str | None = Field(None, description="an identifier; has no effect")


class ChatMessage(Body):
    """One turn of a conversation."""

    role: str = Field(pattern=r"^[\w-]{1,64}$")
    content: Content = None
    name: str | None = None
    reasoning_content: str | None = Field(None, description="thoughts that came before the content")
    reasoning: str | None = Field(None, description="the same, by another name")
    refusal: str | None = None
    annotations: list[Any] | None = None


class ChatCompletionRequest(GenerationRequest):
    """The body of ``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: Int | None = Field(None, description="the newer name of max_tokens")
    add_generation_prompt: bool | None = Field(None, description="open the answer's turn (default true)")
    continue_final_message: bool | None = Field(None, description="go on with the last message, left open")
    documents: list[dict[str, Any]] | None = Field(None, description="documents for the chat template")
    chat_template: str | None = Field(None, description="a jinja template, if the server trusts requests with it")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables for the chat template")
    thinking: bool | None = Field(None, description="sets the template's enable_thinking")


class CompletionRequest(GenerationRequest):
    """The body of ``POST /v1/completions``."""

    prompt: Prompt
    echo: bool | None = Field(None, description="begin the answer with the prompt")

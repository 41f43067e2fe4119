"""Request bodies of OpenAI's API and of vLLM's additions, as far as they are supported.

Types are strict, as in OpenAI's API: a number in quotes is not a number.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from dovetail.server.protocol.base import Body, Items
from dovetail.server.protocol.content import Content
from dovetail.server.protocol.fields import (
    Arguments,
    Count,
    Identifier,
    Int,
    Json,
    No,
    Number,
    Prompt,
    Rank,
    Stop,
    read_tool_choice,
)


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool | None = Field(None, description="send the usage in a chunk of its own at the end")
    continuous_usage_stats: bool | None = Field(None, description="send the usage so far in every chunk")
    include_obfuscation: No | None = None


STRICT_SCHEMA = "refuse what the grammar backend cannot keep of the schema, which is left out with a notice otherwise"
SCHEMA_WORDS = ("type", "properties", "$ref", "anyOf", "allOf", "oneOf", "items", "enum", "const")


class JsonSchema(Body):
    """A schema that the output must follow, whether or not ``strict`` is set. Without one, any JSON object is valid."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = Field(None, description=STRICT_SCHEMA)

    @model_validator(mode="before")
    @classmethod
    def _of_bare_schema(cls, value: Any) -> Any:
        """Accept a schema in place of the object around it."""
        if isinstance(value, dict) and "schema" not in value and any(word in value for word in SCHEMA_WORDS):
            return {"schema": value}
        return value


class ResponseFormat(Body):
    """OpenAI's ``response_format``: the format that the output must have."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema", description="same as json_schema.schema")
    name: str | None = Field(None, description="same as json_schema.name")
    description: str | None = Field(None, description="same as json_schema.description")
    strict: bool | None = Field(None, description=STRICT_SCHEMA)
    structures: Items[dict[str, Any]] | None = Field(None, description="of a structural tag")
    triggers: Items[str] | None = Field(None, description="of a structural tag")
    format: dict[str, Any] | None = Field(None, description="of a structural tag, in its newer form")


class Structured(Body):
    """vLLM's ``structured_outputs``: the format that the output must have. Exactly one field is set."""

    json_: Json = Field(None, alias="json", description="a JSON schema")
    json_object: bool | None = None
    regex: str | None = None
    choice: Items[str] | None = None
    grammar: str | None = Field(None, description="EBNF, in the grammar backend's notation")
    structural_tag: Json = None


class Sampling(Body):
    """Fields of all routes that generate text."""

    model: str | None = Field(None, description="a name from /v1/models; may be left out")
    stream: bool | None = None
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
    stop_token_ids: Items[Int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    logit_bias: dict[str, Number] | None = Field(None, description="token id → number added to its logit")
    bad_words: Items[str] | None = Field(None, description="texts that the output may not hold")
    allowed_token_ids: Items[Int] | None = Field(None, description="the only tokens that may be chosen")
    structured_outputs: Structured | None = None
    priority: Rank | None = Field(None, description="lower runs first, under --scheduling-policy priority")
    cache_salt: str | None = Field(
        None, min_length=1, description="share cached prefixes only with requests of the same salt"
    )
    request_id: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_.:-]{1,128}$", description="becomes part of the answer's id"
    )
    user: Identifier = None
    safety_identifier: Identifier = None
    prompt_cache_key: Identifier = None
    session_id: Identifier = None


class GenerationRequest(Sampling):
    """Fields of the routes whose responses have choices."""

    stream_options: StreamOptions | None = None
    metadata: dict[str, Any] | None = Field(None, description="labels; have no effect")
    n: Int | None = Field(None, description="completions of each prompt")
    logits_processors: Items[str | dict[str, Any]] | None = Field(
        None, description='logits processors of the server, by name, or as {"name": …, "args": {…}}'
    )
    best_of: Int | None = Field(None, description="make so many, and keep the n likeliest; not with stream")
    use_beam_search: bool | None = Field(None, description="search for the n likeliest completions")
    length_penalty: Number | None = Field(None, description="of the search; above 0, longer completions gain")
    max_tokens: Int | None = None
    add_special_tokens: bool | None = Field(None, description="let the tokenizer add its own tokens, such as BOS")
    truncate_prompt_tokens: Int | None = Field(
        None, description="keep the last so many tokens of the prompt; -1 for what the context holds"
    )
    prompt_logprobs: Int | None = Field(None, description="so many alternatives to each token of the prompt")
    return_token_ids: bool | None = Field(None, description="send the token ids of prompt and output, too")
    return_tokens_as_token_ids: bool | None = Field(
        None, description="in logprobs, write tokens as token_id:7 instead of as text"
    )
    response_format: ResponseFormat | None = None
    guided_json: Json = Field(None, description="older name of structured_outputs.json")
    guided_regex: str | None = Field(None, description="older name of structured_outputs.regex")
    guided_choice: Items[str] | None = Field(None, description="older name of structured_outputs.choice")
    guided_grammar: str | None = Field(None, description="older name of structured_outputs.grammar")
    structural_tag: Json = Field(None, description="older name of structured_outputs.structural_tag")


class Function(Body):
    """A function that the model may call."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,160}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="a JSON schema of an object")
    strict: bool | None = Field(None, description="arguments follow the schema, where calls hold them as JSON")


class ToolDefinition(Body):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class FunctionName(Body):
    """A function, by its name."""

    name: str = Field(min_length=1)


class NamedTool(Body):
    """A tool, by its name."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(Body):
    """The tools that the model may call for this request."""

    mode: Literal["auto", "required"]
    tools: Items[NamedTool] = Field(min_length=1)


class AllowedToolChoice(Body):
    """A tool choice restricted to some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


Note = Annotated[Any, Field(description="what a client noted of an answer, and sends back with it; has no effect")]


class CalledFunction(Body):
    """The function of a call, and its arguments."""

    name: str
    arguments: Arguments = None
    parsed_arguments: Note = None
    provider_specific_fields: Note = None


class ToolCall(Body):
    """A call of an earlier message."""

    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunction
    index: Int | None = None
    provider_specific_fields: Note = None


class ChatMessage(Body):
    """One message of a conversation."""

    role: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    content: Content = None
    name: str | None = None
    reasoning_content: str | None = Field(None, description="thoughts that came before the content")
    reasoning: str | None = Field(None, description="the same, by another name")
    tool_calls: Items[ToolCall] | None = Field(None, description="what the assistant called in this turn")
    tool_call_id: str | None = Field(None, description="the call whose result this is, with the role tool")
    function_call: CalledFunction | None = Field(None, description="the older form of tool_calls: one call")
    refusal: str | None = None
    annotations: list[Any] | None = None
    parsed: Note = None
    provider_specific_fields: Note = None
    reasoning_details: Note = None
    thinking_blocks: Note = None


class ChatCompletionRequest(GenerationRequest):
    """The body of ``POST /v1/chat/completions``."""

    messages: Items[ChatMessage] = Field(min_length=1)
    logprobs: bool | None = Field(None, description="send the logprob of each token")
    top_logprobs: Int | None = Field(None, ge=0, le=20, description="so many alternatives to each token")
    max_completion_tokens: Int | None = Field(None, description="the newer name of max_tokens")
    store: bool | None = Field(None, description="keep the completion, to be read again (default false)")
    metadata: dict[str, Any] | None = Field(None, description="labels; shown with what is kept, else without effect")
    add_generation_prompt: bool | None = Field(None, description="open the answer's turn (default true)")
    continue_final_message: bool | None = Field(None, description="go on with the last message, left open")
    documents: Items[dict[str, Any]] | None = Field(None, description="documents for the chat template")
    chat_template: str | None = Field(None, description="a jinja template, if the server trusts requests with it")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables for the chat template")
    thinking: bool | None = Field(None, description="sets the template's enable_thinking")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        None, description="for templates that know it; none turns thinking off"
    )
    verbosity: Literal["low", "medium", "high"] | None = Field(None, description="for templates that know it")
    prediction: dict[str, Any] | None = Field(None, description="what the answer may be like; has no effect")
    include_reasoning: bool | None = Field(None, description="send the model's thoughts, too (default true)")
    tools: Items[ToolDefinition] | None = None
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | NamedTool | AllowedToolChoice | None, BeforeValidator(read_tool_choice)
    ] = None
    parallel_tool_calls: bool | None = Field(None, description="more than one call in an answer (default true)")
    functions: Items[Function] | None = Field(None, description="the older form of tools; an answer calls one at most")
    function_call: Literal["none", "auto"] | FunctionName | None = Field(
        None, description="the older form of tool_choice; a name is called"
    )


class CompletionRequest(GenerationRequest):
    """The body of ``POST /v1/completions``."""

    prompt: Prompt
    suffix: str | None = Field(None, description="what comes behind the completion, for models that fill in")
    logprobs: Count = Field(None, description="send the logprob of each token, and of so many alternatives")
    echo: bool | None = Field(None, description="begin the answer with the prompt")


class LoadAdapterRequest(Body):
    """The body of ``POST /v1/load_lora_adapter``."""

    lora_name: str = Field(min_length=1, description="the name that requests will ask for it by, as their model")
    lora_path: str = Field(
        min_length=1, description="its folder on the server, or hub repository; one that the server allows"
    )


class UnloadAdapterRequest(Body):
    """The body of ``POST /v1/unload_lora_adapter``."""

    lora_name: str = Field(min_length=1)

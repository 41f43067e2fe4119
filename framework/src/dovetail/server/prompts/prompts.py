"""From messages and prompts to token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dovetail.server.context import ServerContext
from dovetail.server.generate.sampling_params import check_ids
from dovetail.server.http.error_fields import in_own_words
from dovetail.server.http.errors import ApiError
from dovetail.server.prompts.encoding import encode
from dovetail.server.prompts.infilling import around
from dovetail.server.protocol.requests import ChatCompletionRequest, CompletionRequest
from dovetail.server.tools.legacy_functions import NAMES, newer
from dovetail.server.tools.output_parsing import Reading, find_reading
from dovetail.server.tools.tool_choice import read_offer
from dovetail.server.tools.tool_prompts import conversation, knows_tools

TEMPLATE_KWARGS_TAKEN = frozenset(
    ("self", "messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template")
)
PROMPT_END = 4096
"""Characters of a prompt that tell whether it opened the reasoning."""


async def chat_prompt(context: ServerContext, body: ChatCompletionRequest) -> list[int]:
    """The token ids of a conversation; raises as :func:`converse`."""
    return (await converse(context, body))[0]


async def converse(context: ServerContext, body: ChatCompletionRequest) -> tuple[list[int], Reading]:
    """Render the conversation with the chat template and encode it; and how the turn that follows is read.

    Raises:
        ApiError: the request contradicts itself, or brings a template of its own.
        RequestError: there is no template, or it refuses the messages.
    """
    continues = bool(body.continue_final_message)
    if continues and body.add_generation_prompt:
        message = "add_generation_prompt and continue_final_message exclude each other; give one of them"
        raise ApiError(400, message, param="continue_final_message", code="invalid_value")
    opens = not continues if body.add_generation_prompt is None else body.add_generation_prompt
    tokenizer = context.engine.tokenizer
    _check_trust(context, body)
    kwargs = _template_kwargs(body)
    body = newer(body)
    with in_own_words(NAMES if body.functions else ()):
        offer = read_offer(body, context.settings)
    template = tokenizer.find_chat_template(body.chat_template, with_tools=bool(offer.shown))
    reading = find_reading(context.engine.plan, template, offer, body.include_reasoning is not False)
    messages = conversation(body.messages, template, offer, reading.tools)
    tools = [{"type": "function", "function": tool} for tool in offer.shown] if knows_tools(template) else None

    def render() -> tuple[list[int], str]:
        prompt = tokenizer.apply_chat_template(
            messages,
            tools=tools or None,
            documents=body.documents,
            add_generation_prompt=opens,
            continue_final_message=continues,
            chat_template=body.chat_template,
            **kwargs,
        )
        special, truncates = bool(body.add_special_tokens), body.truncate_prompt_tokens is not None
        return encode(context, prompt, special=special, param="messages", truncates=truncates), prompt

    ids, prompt = await context.in_worker(render)
    return ids, replace(reading, prompt=prompt[-PROMPT_END:])


async def completion_prompts(context: ServerContext, body: CompletionRequest) -> list[list[int]]:
    """The token ids of each prompt.

    Raises:
        ApiError: there are more than the server takes, one is too long, or an id is not in the vocabulary.
    """
    special, truncates = body.add_special_tokens is not False, body.truncate_prompt_tokens is not None
    most = context.settings.max_request_choices
    if len(body.prompt) > most:
        message = (
            f"prompt holds {len(body.prompt)} prompts, more than {most}, the server's limit (--max-request-choices)"
        )
        raise ApiError(400, message, param="prompt", code="invalid_value")

    def ids_of(prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            # A text that is filled in begins with a token of its own.
            ids = encode(context, prompt, special=special and not body.suffix, param="prompt", truncates=truncates)
        else:
            check_ids(context, prompt, "prompt")
            ids = prompt
        if not body.suffix:
            return ids
        suffix = encode(context, body.suffix, special=False, param="suffix", truncates=truncates)
        return around(context.engine.tokenizer, ids, suffix)

    return await context.in_worker(lambda: [ids_of(prompt) for prompt in body.prompt])


async def prompt_texts(context: ServerContext, body: CompletionRequest, prompts: list[list[int]]) -> list[str]:
    """The prompts as texts, for ``echo``: as they were given, or what truncation left of them."""
    decode = context.engine.tokenizer.decode
    whole = body.truncate_prompt_tokens is None

    def texts() -> list[str]:
        given = zip(body.prompt, prompts, strict=True)
        return [text if whole and isinstance(text, str) else decode(ids) for text, ids in given]

    return await context.in_worker(texts)


def _check_trust(context: ServerContext, body: ChatCompletionRequest) -> None:
    known = context.engine.tokenizer.chat_template
    named = isinstance(known, Mapping) and body.chat_template in known
    if body.chat_template is None or named or context.settings.trust_request_chat_template:
        return
    message = "this server does not take chat templates from requests (--trust-request-chat-template is off)"
    raise ApiError(400, message, param="chat_template", code="unsupported_parameter")


def _template_kwargs(body: ChatCompletionRequest) -> dict[str, Any]:
    kwargs = dict(body.chat_template_kwargs or {})
    taken = sorted(TEMPLATE_KWARGS_TAKEN & kwargs.keys())
    if taken:
        message = f"chat_template_kwargs may not set {', '.join(taken)}; the request has a field of that name"
        raise ApiError(400, message, param="chat_template_kwargs", code="invalid_value")
    thinks = False if body.reasoning_effort == "none" else body.thinking
    if thinks is not None:
        # Templates call it by either name.
        kwargs.setdefault("enable_thinking", thinks)
        kwargs.setdefault("thinking", thinks)
    for name in ("reasoning_effort", "verbosity"):
        if (value := getattr(body, name)) is not None:
            kwargs.setdefault(name, value)
    return kwargs

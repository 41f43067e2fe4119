"""Renders and encodes the prompts of the generating routes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from dovetail.api.errors import RequestError
from dovetail.engine.messages import ImageInput
from dovetail.engine.templates.calls import RenderCall
from dovetail.engine.templates.facts import TemplateFacts
from dovetail.engine.templates.image_parts import write_placeholders
from dovetail.engine.templates.rendered_prompt import RenderedPrompt
from dovetail.kernel.parsers import all_patterns
from dovetail.server.context import ServerContext
from dovetail.server.generate.sampling_params import check_ids
from dovetail.server.http.disconnect import while_connected
from dovetail.server.http.error_fields import rename_error_fields
from dovetail.server.http.errors import ApiError
from dovetail.server.prompts.encoding import encode_prompt
from dovetail.server.prompts.infilling import build_infill_prompt
from dovetail.server.protocol.content import ImagePart
from dovetail.server.protocol.requests import ChatCompletionRequest, CompletionRequest
from dovetail.server.settings import RESERVED_TEMPLATE_KWARGS
from dovetail.server.tools.legacy_functions import FIELD_NAMES, upgrade_request
from dovetail.server.tools.output_parsing import OutputParsing, find_output_parsing
from dovetail.server.tools.tool_choice import select_tools
from dovetail.server.tools.tool_prompts import build_template_messages
from dovetail.utils.logs import announce

MAX_TEMPLATE_CHARS = 2**20
"""Most characters of a request's own chat template. Models' templates have a fiftieth of that."""
PROMPT_TAIL_CHARS = 4096
"""Number of characters at a prompt's end that show whether it opens the reasoning."""


class ChatPrompt(NamedTuple):
    """A conversation as a prompt.

    Attributes:
        ids: with the tokens of images.
        parsing: how to parse the output.
        images: None for none.
    """

    ids: list[int]
    parsing: OutputParsing
    images: list[ImageInput] | None = None


async def chat_prompt_ids(context: ServerContext, body: ChatCompletionRequest) -> list[int]:
    """The token ids of a conversation. Raises like :func:`render_chat`."""
    return (await render_chat(context, body)).ids


async def render_chat(context: ServerContext, body: ChatCompletionRequest) -> ChatPrompt:
    """Render and encode the conversation.

    Raises:
        ApiError: the request contradicts itself, or brings its own template where that is not allowed.
        RequestError: there is no template, or it refuses the messages.
    """
    continues = bool(body.continue_final_message)
    if continues and body.add_generation_prompt:
        message = "add_generation_prompt and continue_final_message exclude each other; give one of them"
        raise ApiError(400, message, param="continue_final_message", code="invalid_value")
    add_generation_prompt = not continues if body.add_generation_prompt is None else body.add_generation_prompt
    tokenizer = context.engine.tokenizer
    images = find_images(context, body)
    _check_template_allowed(context, body)
    kwargs = {**context.settings.default_chat_template_kwargs, **_template_kwargs(body)}
    body = upgrade_request(body)
    with rename_error_fields(FIELD_NAMES if body.functions else ()):
        selection = select_tools(body, context.settings)
    template = tokenizer.find_chat_template(body.chat_template, with_tools=bool(selection.in_prompt))

    async def render() -> tuple[RenderedPrompt, OutputParsing]:
        facts = await find_template_facts(context, template)
        parsing = find_output_parsing(context.engine.plan, facts, selection, body.include_reasoning is not False)
        tools = [{"type": "function", "function": tool} for tool in selection.in_prompt] if facts.shows_tools else None
        call = RenderCall(
            template,
            build_template_messages(body.messages, template, facts, selection, parsing.tools),
            tools=tools or None,
            documents=body.documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continues,
            variables={**tokenizer.special_tokens, **kwargs},
            content_format=tokenizer.chat_template_content_format,
        )
        return await context.renderer.render(call), parsing

    prompt, parsing = await while_connected(render())
    if images:
        prompt = write_placeholders(prompt, context.engine.image_placeholder or "")
    special, truncate = bool(body.add_special_tokens), body.truncate_prompt_tokens is not None
    ids = await context.run_in_worker(
        lambda: encode_prompt(context, prompt, add_special_tokens=special, param="messages", truncate=truncate),
        len(prompt.text),
    )
    parsing = replace(parsing, prompt=prompt.text[-PROMPT_TAIL_CHARS:])
    if not images:
        return ChatPrompt(ids, parsing)
    placed = await while_connected(context.engine.place_images(ids, images))
    return ChatPrompt(placed.token_ids, parsing, placed.images)


def find_images(context: ServerContext, body: ChatCompletionRequest) -> list[str]:
    """The URLs of a conversation's images, in order.

    Raises:
        ApiError: the model takes none, or the request asks for what does not go with images.
    """
    urls = [
        part.url
        for message in body.messages
        if isinstance(message.content, list)
        for part in message.content
        if isinstance(part, ImagePart)
    ]
    if not urls:
        return urls
    if context.engine.image_placeholder is None:
        message = f"{context.engine.plan.model} takes no images; send it text"
        raise ApiError(400, message, param="messages", code="unsupported_value")
    for name in ("truncate_prompt_tokens", "use_beam_search"):
        if getattr(body, name):
            raise ApiError(400, f"{name} does not go with images; leave it out", param=name, code="unsupported_value")
    return urls


async def find_template_facts(context: ServerContext, template: str) -> TemplateFacts:
    """The facts about a template, with the patterns of the plan's parsers. Raises as
    :meth:`~dovetail.server.rendering.renderer.Renderer.find_facts`.
    """
    plan = context.engine.plan
    return await context.renderer.find_facts(template, all_patterns(plan.reasoning_parsers, plan.tool_parsers))


async def check_own_template(context: ServerContext) -> None:
    """Find the facts about the model's chat template, so that the first conversation need not wait for them. If it
    fails, tell the operator: conversations will fail, too.
    """
    try:
        template = context.engine.tokenizer.find_chat_template()
    except RequestError:  # which every conversation will be told
        return
    try:
        await find_template_facts(context, template)
    except RequestError as error:
        if context.counters.row <= 1:  # every API process finds the same
            announce(f"the model's chat template fails: {error}", logging.WARNING)


async def completion_prompts(context: ServerContext, body: CompletionRequest) -> list[list[int]]:
    """The token ids of each prompt.

    Raises:
        ApiError: there are too many prompts, one is too long, or an id is not in the vocabulary.
    """
    special, truncate = body.add_special_tokens is not False, body.truncate_prompt_tokens is not None
    limit = context.settings.max_request_choices
    if len(body.prompt) > limit:
        message = (
            f"prompt holds {len(body.prompt)} prompts, more than {limit}, the server's limit (--max-request-choices)"
        )
        raise ApiError(400, message, param="prompt", code="invalid_value")

    def ids_of(prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            # A text that is filled in begins with a token of its own.
            ids = encode_prompt(
                context, prompt, add_special_tokens=special and not body.suffix, param="prompt", truncate=truncate
            )
        else:
            check_ids(context, prompt, "prompt")
            ids = prompt
        if not body.suffix:
            return ids
        suffix = encode_prompt(context, body.suffix, add_special_tokens=False, param="suffix", truncate=truncate)
        return build_infill_prompt(context.engine.tokenizer, ids, suffix)

    suffix_size = len(body.suffix or "")
    prompts: Sequence[str | list[int]] = body.prompt
    return await context.map_in_worker(ids_of, prompts, lambda prompt: len(prompt) + suffix_size)


async def prompt_texts(context: ServerContext, body: CompletionRequest, prompts: list[list[int]]) -> list[str]:
    """The prompts as texts, for ``echo``: the given texts, or what is left of them after truncation."""
    decode = context.engine.tokenizer.decode
    untruncated = body.truncate_prompt_tokens is None

    def texts() -> list[str]:
        given = zip(body.prompt, prompts, strict=True)
        return [text if untruncated and isinstance(text, str) else decode(ids) for text, ids in given]

    return await context.run_in_worker(texts, 4 * sum(map(len, prompts)))


def _check_template_allowed(context: ServerContext, body: ChatCompletionRequest) -> None:
    known = context.engine.tokenizer.chat_template
    named = isinstance(known, Mapping) and body.chat_template in known
    if body.chat_template is None or named:
        return
    if context.settings.trust_request_chat_template:
        if len(body.chat_template) > MAX_TEMPLATE_CHARS:
            message = f"chat_template has {len(body.chat_template)} characters, and the limit is {MAX_TEMPLATE_CHARS}; shorten it"
            raise ApiError(400, message, param="chat_template", code="invalid_value")
        return
    message = "this server does not take chat templates from requests (--trust-request-chat-template is off)"
    raise ApiError(400, message, param="chat_template", code="unsupported_parameter")


def _template_kwargs(body: ChatCompletionRequest) -> dict[str, Any]:
    kwargs = dict(body.chat_template_kwargs or {})
    reserved = sorted(RESERVED_TEMPLATE_KWARGS & kwargs.keys())
    if reserved:
        message = f"chat_template_kwargs may not set {', '.join(reserved)}; the request has a field of that name"
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

"""The prompts of the offline API: converts all accepted forms to token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dovetail.api.errors import RequestError
from dovetail.engine.offline.sequences import read_sequence, read_token_ids
from dovetail.engine.templates.chat_template import ContentFormatOption
from dovetail.engine.templates.image_parts import take_images, write_placeholders
from dovetail.engine.text.tokenizer import Tokenizer

Prompt = str | Sequence[int] | Mapping[str, Any]
Messages = Sequence[Mapping[str, Any]]
PROMPT_KEYS = ("prompt", "prompt_token_ids", "cache_salt")
IMAGES_KEY = "multi_modal_data"
PROMPT_FORMATS = 'give a text, {"prompt": text}, {"prompt_token_ids": [ids]} or a list of ids'


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A prompt as token ids.

    Attributes:
        text: None if only token ids were given.
        cache_salt: cached prefixes are shared only with prompts of the same salt.
        images: those whose places the token ids have: ``PIL.Image.Image`` objects, or URLs.
    """

    text: str | None
    token_ids: list[int]
    cache_salt: str | None = None
    images: tuple[Any, ...] = ()


def require_tokenizer(tokenizer: Tokenizer | None, what: str) -> Tokenizer:
    """Check that there is a tokenizer.

    Raises:
        RequestError: there is none.
    """
    if tokenizer is None:
        raise RequestError(
            f"{what} needs the tokenizer, and there is none (skip_tokenizer_init)",
            'give {"prompt_token_ids": [ids]}, and detokenize=False',
        )
    return tokenizer


def read_prompts(
    prompts: Any, tokenizer: Tokenizer | None, *, before: str = "", images: bool = False
) -> list[TokenizedPrompt]:
    """Read one prompt or many, in any of the accepted forms.

    Args:
        prompts: a text, a mapping with ``prompt`` or ``prompt_token_ids`` (and optional ``cache_salt``), a sequence of
            token ids, or a sequence of these. Sequences can have any ordered type: lists, tuples, arrays, tensors,
            generators.
        before: put before each text, and not before token ids.
        images: mappings may have ``multi_modal_data``, ``{"image": image}`` or ``{"image": [images]}``.

    Raises:
        RequestError: a prompt has none of these forms; says which.
    """
    found = read_sequence(prompts)
    if found is None:
        if not isinstance(prompts, str | Mapping):
            raise RequestError(
                f"prompts is a {type(prompts).__name__}", f"{PROMPT_FORMATS}, or a list of these", param="prompt"
            )
        return [_read_prompt(prompts, 0, tokenizer, before, images)]
    if found and (ids := read_token_ids(found)) is not None:
        return [TokenizedPrompt(None, ids)]
    return [_read_prompt(prompt, position, tokenizer, before, images) for position, prompt in enumerate(found)]


def _read_prompt(
    prompt: Any, position: int, tokenizer: Tokenizer | None, before: str, takes_images: bool
) -> TokenizedPrompt:
    text, given, salt = prompt, None, None
    images: tuple[Any, ...] = ()
    if isinstance(prompt, Mapping):
        keys = (*PROMPT_KEYS, IMAGES_KEY) if takes_images else PROMPT_KEYS
        if unknown := [str(key) for key, value in prompt.items() if key not in keys and value is not None]:
            raise RequestError(
                f"prompt {position} has {', '.join(unknown)}", f"known are {', '.join(keys)}", param="prompt"
            )
        if (media := prompt.get(IMAGES_KEY)) is not None:
            images = _read_media(media, position)
        text, given, salt = (prompt.get(key) for key in PROMPT_KEYS)
        if salt is not None and not (isinstance(salt, str) and salt):
            raise RequestError(f"the cache_salt of prompt {position} is {salt!r}", "give a text", param="cache_salt")
        if given is not None:
            values = read_sequence(given, "prompt_token_ids")
            ids = None if values is None else read_token_ids(values)
            if ids is None:
                raise RequestError(
                    f"the prompt_token_ids of prompt {position} are no list of ids",
                    PROMPT_FORMATS,
                    param="prompt_token_ids",
                )
            return TokenizedPrompt(text if isinstance(text, str) else None, ids, salt, images)
    elif (values := read_sequence(prompt)) and (ids := read_token_ids(values)) is not None:
        return TokenizedPrompt(None, ids)
    if isinstance(text, str):
        text = before + text
        return TokenizedPrompt(text, require_tokenizer(tokenizer, "a prompt of text").encode(text), salt, images)
    raise RequestError(f"prompt {position} is a {type(prompt).__name__}", PROMPT_FORMATS, param="prompt")


def _read_media(media: Any, position: int) -> tuple[Any, ...]:
    if not isinstance(media, Mapping) or media.keys() != {"image"}:
        raise RequestError(
            f"the multi_modal_data of prompt {position} is {media!r:.200}",
            'give {"image": image} or {"image": [images]}: only images are read',
            param=IMAGES_KEY,
        )
    found = media.get("image")
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list | tuple) else (found,)


def read_conversations(
    messages: Any,
    tokenizer: Tokenizer | None,
    *,
    placeholder: str,
    chat_template: str | None,
    chat_template_content_format: ContentFormatOption | None,
    add_generation_prompt: bool,
    continue_final_message: bool,
    tools: Sequence[Mapping[str, Any]] | None,
    chat_template_kwargs: Mapping[str, Any] | None,
) -> list[TokenizedPrompt]:
    """One conversation (a list of messages) or many (a list of such lists), by the chat template.

    Args:
        placeholder: what stands for an image where the template takes texts.

    Raises:
        RequestError: a conversation has another form, the model has no chat template and none is given, or the template
            refuses the messages.
    """
    tokenizer = require_tokenizer(tokenizer, "a conversation")
    given = read_sequence(messages, "messages") or []
    one = not given or _read_message(given[0]) is not None
    conversations = [_read_conversation(each) for each in ([given] if one else given)]
    found: list[TokenizedPrompt] = []
    for conversation in conversations:
        seen, images = take_images(conversation)
        prompt = tokenizer.render_prompt(
            seen,
            tools=[dict(tool) for tool in tools] if tools else None,
            chat_template=chat_template,
            chat_template_content_format=chat_template_content_format,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **(chat_template_kwargs or {}),
        )
        if images:
            prompt = write_placeholders(prompt, placeholder)
        found.append(TokenizedPrompt(prompt.text, tokenizer.encode_rendered(prompt), images=tuple(images)))
    return found


def _read_conversation(given: Any) -> list[dict[str, Any]]:
    messages = [_read_message(each) for each in read_sequence(given, "messages") or ()]
    whole = [message for message in messages if message is not None]
    if not messages or len(whole) < len(messages):
        raise RequestError(
            f"a conversation is {given!r:.200}",
            'give messages like [{"role": "user", "content": "Hi"}]',
            param="messages",
        )
    return whole


def _read_message(given: Any) -> dict[str, Any] | None:
    """A message: a mapping, or an object of a client's, such as the answer of an earlier turn."""
    if isinstance(given, Mapping):
        return dict(given)
    dump = getattr(given, "model_dump", None)
    return dump(exclude_none=True) if callable(dump) else None

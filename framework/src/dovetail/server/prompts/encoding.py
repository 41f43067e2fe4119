"""Encodes the texts of a request."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.engine.templates.rendered_prompt import RenderedPrompt
from dovetail.server.context import ServerContext
from dovetail.server.http.errors import CONTEXT_LENGTH_EXCEEDED, ApiError

MIN_TEXT_BYTES = 1 << 20
BYTES_PER_TOKEN = 16
"""Longest text to tokenize: 16 bytes for each token of the context, which no language or code needs on average, and at
least 1 MiB. Tokenizing takes up to a second and 200 MB for each megabyte.
"""


def text_limit(context: ServerContext) -> int:
    """The longest text that is tokenized, in bytes."""
    return max(MIN_TEXT_BYTES, BYTES_PER_TOKEN * context.engine.max_model_len)


def check_text_length(context: ServerContext, texts: Sequence[str], param: str) -> None:
    """Refuse texts that take too long to tokenize.

    Args:
        param: the request's field that holds them.

    Raises:
        ApiError: one is longer than :func:`text_limit`.
    """
    limit = text_limit(context)
    for text in texts:
        # A character has at most four bytes.
        if len(text) * 4 > limit and (size := len(text.encode(errors="surrogatepass"))) > limit:
            message = (
                f"{param} has a text of {size} bytes, and the server tokenizes at most {limit} ({BYTES_PER_TOKEN} for each token of the context, "
                "or 1 MiB); shorten it"
            )
            raise ApiError(400, message, param=param, code=CONTEXT_LENGTH_EXCEEDED)


def encode_prompt(
    context: ServerContext,
    prompt: str | RenderedPrompt,
    *,
    add_special_tokens: bool,
    param: str,
    truncate: bool = False,
) -> list[int]:
    """Encode a prompt. Long texts take time, so it is called in the worker thread.

    Args:
        prompt: a text, in which special tokens are recognised, or a conversation, in which only the template's are.
        add_special_tokens: let the tokenizer add its own tokens, such as BOS.
        param: the request's field that holds the text.
        truncate: the request sets truncate_prompt_tokens, so a prompt of any length is accepted.

    Raises:
        ApiError: the text is too long for the context, whatever its tokens are, or longer than :func:`text_limit`. It
            is not encoded, which would delay others.
    """
    text = prompt if isinstance(prompt, str) else prompt.text
    tokenizer, limit = context.engine.tokenizer, context.engine.max_model_len
    # A token is a byte or more, so that short texts need not be looked at.
    if not truncate and len(text) > limit and (fewest := tokenizer.min_token_count(text)) > limit:
        message = (
            f"the prompt has {len(text)} characters, which are more than {fewest - 1} tokens, but the model's context is {limit}; "
            "shorten the prompt"
        )
        raise ApiError(400, message, param=param, code=CONTEXT_LENGTH_EXCEEDED)
    check_text_length(context, [text], param)
    if isinstance(prompt, str):
        return tokenizer.encode(prompt, add_special_tokens=add_special_tokens)
    return tokenizer.encode_rendered(prompt, add_special_tokens=add_special_tokens)

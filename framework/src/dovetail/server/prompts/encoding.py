"""Texts to token ids, on behalf of a request."""

from __future__ import annotations

from dovetail.server.context import ServerContext
from dovetail.server.http.errors import CONTEXT_LENGTH_EXCEEDED, ApiError


def encode_prompt(
    context: ServerContext, text: str, *, add_special_tokens: bool, param: str, truncate: bool = False
) -> list[int]:
    """The token ids of a prompt. Takes long for a long text, so it is called in the worker.

    Args:
        add_special_tokens: let the tokenizer add its own tokens, such as BOS.
        param: the field of the request that the text is from.
        truncate: the request asks for a part of a prompt that may be of any length.

    Raises:
        ApiError: the text is so long that it cannot fit the context, whatever its tokens are. Encoding it would hold up others.
    """
    tokenizer, limit = context.engine.tokenizer, context.engine.max_model_len
    # A token is a byte or more, so that short texts need not be looked at.
    if not truncate and len(text) > limit and (fewest := tokenizer.min_token_count(text)) > limit:
        message = (
            f"the prompt has {len(text)} characters, which are more than {fewest - 1} tokens, but the model's context is {limit}; "
            "shorten the prompt"
        )
        raise ApiError(400, message, param=param, code=CONTEXT_LENGTH_EXCEEDED)
    return tokenizer.encode(text, add_special_tokens=add_special_tokens)

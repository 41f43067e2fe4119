"""The bodies of pooling requests, in vLLM's and OpenAI's formats, and of rerank requests in Jina's and Cohere's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dovetail.server.prompts.conversation import ConversationFields
from dovetail.server.protocol.base import Body, Items
from dovetail.server.protocol.fields import Document, Identifier, Input, Int, Rank, Texts


class PoolingFields(Body):
    """Fields that all pooling routes share."""

    model: str | None = Field(None, description="a name from /v1/models; may be left out")
    truncate_prompt_tokens: Int | None = Field(
        None, ge=-1, description="cut longer inputs to so many tokens; -1 for what the context holds"
    )
    truncation_side: Literal["left", "right"] | None = Field(
        None, description="where inputs are cut (default right, which keeps the beginning)"
    )
    use_activation: bool | None = Field(
        None, description="normalise embeddings, or make probabilities of logits (default: what the model was made for)"
    )
    priority: Rank | None = Field(None, description="lower runs first, under --scheduling-policy priority")
    cache_salt: str | None = Field(
        None, min_length=1, description="share cached prefixes only with requests of the same salt"
    )
    request_id: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_.:-]{1,128}$", description="becomes part of the answer's id"
    )
    user: Identifier = None


class ClassificationRequest(PoolingFields, ConversationFields):
    """The body of ``POST /classify``: an input or messages."""

    input: Input = Field(None, description="a text, a list of texts, a list of token ids, or a list of such lists")
    activation: bool | None = Field(None, description="older name of use_activation")


class EmbeddingRequest(PoolingFields, ConversationFields):
    """The body of ``POST /v1/embeddings``: an input or messages."""

    input: Input = Field(None, description="a text, a list of texts, a list of token ids, or a list of such lists")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="base64 writes float32 numbers, little-endian"
    )
    dimensions: Int | None = Field(
        None, ge=1, description="cut embeddings to so many numbers, if the model was trained for it"
    )
    normalize: bool | None = Field(None, description="older name of use_activation")
    prompt_name: str | None = Field(
        None, description="which of the model's prompts to put before each text, such as query (default: the model's)"
    )


class PoolingRequest(EmbeddingRequest):
    """The body of ``POST /pooling``: an input or messages."""

    task: Literal["embed", "classify", "score"] | None = Field(
        None, description="what to make of the inputs, of what the model has (default: its first)"
    )
    activation: bool | None = Field(None, description="older name of use_activation")


class ScoreRequest(PoolingFields):
    """The body of ``POST /score``: two groups of texts, under any of the pairs of names."""

    text_1: Texts = Field(
        None, description="a text, which is scored with each of the others; or as many as of the others"
    )
    text_2: Texts = None
    queries: Texts = Field(None, description="the same as text_1")
    documents: Texts = Field(None, description="the same as text_2")
    items: Texts = Field(None, description="the same as text_2")
    data_1: Texts = Field(None, description="the same as text_1")
    data_2: Texts = Field(None, description="the same as text_2")
    activation: bool | None = Field(None, description="older name of use_activation")


class RerankRequest(PoolingFields):
    """The body of ``POST /rerank``."""

    query: str
    documents: Items[Document] = Field(min_length=1)
    top_n: Int | None = Field(None, ge=0, description="give back the best so many; 0 for all, as without it")
    return_documents: bool | None = Field(None, description="send the documents back, too (default true)")
    activation: bool | None = Field(None, description="older name of use_activation")


BODIES = (ClassificationRequest, EmbeddingRequest, PoolingRequest, ScoreRequest, RerankRequest)

FIRST_NAMES, SECOND_NAMES = ("text_1", "queries", "data_1"), ("text_2", "documents", "items", "data_2")
"""Pairs of fields of :class:`ScoreRequest` with the same meaning."""

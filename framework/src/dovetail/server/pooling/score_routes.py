"""``POST /score`` and ``/rerank``: how similar or relevant texts are to each other.

A model with the task ``score`` reads both texts at once. With the task ``embed`` it reads each text separately, and the
score is the cosine similarity of the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from dovetail.engine.request.pooling_params import PoolingParams, broadcast_pairs, cosine_similarity, floats
from dovetail.server.context import ServerContext
from dovetail.server.http.errors import ApiError
from dovetail.server.http.openapi import route_docs
from dovetail.server.pooling.inputs import pooling_params, read_activation, text_prompts
from dovetail.server.pooling.protocol import FIRST_NAMES, SECOND_NAMES, PoolingFields, RerankRequest, ScoreRequest
from dovetail.server.pooling.run import common_fields, compute_vectors, list_response, pooling_job, pooling_usage
from dovetail.server.protocol.body import read_body


@dataclass(frozen=True)
class Scores:
    """The scores of pairs of texts, in order, and their token usage."""

    model: str
    values: list[float]
    usage: dict[str, Any]


def router(context: ServerContext) -> APIRouter:
    """The routes that compare texts, under all paths that clients use."""
    routes = APIRouter(tags=["vectors"])

    async def score(request: Request) -> Response:
        return await _score(context, request)

    async def rerank(request: Request) -> Response:
        return await _rerank(context, request)

    for path in ("/score", "/v1/score"):
        routes.post(path, **route_docs(ScoreRequest, "How well texts go together"))(score)
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        routes.post(path, **route_docs(RerankRequest, "Documents in the order in which they answer a query"))(rerank)
    return routes


async def _score(context: ServerContext, request: Request) -> Response:
    body = await read_body(request, ScoreRequest)
    (first_name, first), (second_name, second) = _read_texts(body, FIRST_NAMES), _read_texts(body, SECOND_NAMES)
    if len(first) not in (1, len(second)):
        message = (
            f"{first_name} has {len(first)} texts and {second_name} {len(second)}; give one of the former, or as many"
        )
        raise ApiError(400, message, param=first_name, code="invalid_value")
    scores = await _compare(context, request, body, first, second, (first_name, second_name))

    def show(index: int, value: float) -> dict[str, Any]:
        return {"index": index, "object": "score", "score": value}

    return await list_response(
        context, common_fields("score", body, scores.model, scores.usage), "data", scores.values, show
    )


def _read_texts(body: ScoreRequest, names: tuple[str, ...]) -> tuple[str, list[str]]:
    given = [(name, texts) for name in names if (texts := getattr(body, name)) is not None]
    if len(given) == 1:
        return given[0]
    if not given:
        message = f"{names[0]} is required"
        raise ApiError(400, message, param=names[0], code="missing_required_parameter")
    message = f"{' and '.join(name for name, _ in given)} mean the same; give one of them"
    raise ApiError(400, message, param=given[1][0], code="invalid_value")


async def _rerank(context: ServerContext, request: Request) -> Response:
    body = await read_body(request, RerankRequest)
    scores = await _compare(context, request, body, [body.query], body.documents, ("query", "documents"))
    order = sorted(range(len(scores.values)), key=lambda place: -scores.values[place])
    answer = common_fields("rerank", body, scores.model, scores.usage)
    del answer["object"], answer["created"]

    def show(_: int, place: int) -> dict[str, Any]:
        result: dict[str, Any] = {"index": place, "relevance_score": scores.values[place]}
        if body.return_documents is not False:
            result["document"] = {"text": body.documents[place]}
        return result

    return await list_response(context, answer, "results", order[: body.top_n or None], show)


async def _compare(
    context: ServerContext,
    request: Request,
    body: PoolingFields,
    first: Sequence[str],
    second: Sequence[str],
    names: tuple[str, str],
) -> Scores:
    """Score one text against each of the others, or equally long lists pairwise.

    Args:
        names: the request's fields that hold the texts.
    """
    model, adapter = context.select_model(body.model)
    if context.require_task("score", "embed") == "score":
        texts, others = zip(*broadcast_pairs(first, second), strict=True)
        prompts = await text_prompts(context, body, texts, others, names[1])
        job = pooling_job(context, body, prompts, adapter)
        pooled = await compute_vectors(context, request, job, pooling_params(body, "score"))
        return Scores(model, [floats(each.vector)[0] for each in pooled], pooling_usage(job, pooled))
    if read_activation(body, embeds=False) is not None:
        message = "use_activation is about the logits of a cross-encoder; the scores of embeddings are cosines"
        raise ApiError(400, message, param="use_activation", code="invalid_value")
    prompts = await text_prompts(context, body, first, None, names[0])
    prompts += await text_prompts(context, body, second, None, names[1])
    job = pooling_job(context, body, prompts, adapter)
    pooled = await compute_vectors(context, request, job, PoolingParams(task="embed"))

    def compare() -> list[float]:
        embeddings = [floats(each.vector) for each in pooled]
        return [cosine_similarity(a, b) for a, b in broadcast_pairs(embeddings[: len(first)], embeddings[len(first) :])]

    return Scores(model, await context.run_in_worker(compare), pooling_usage(job, pooled))

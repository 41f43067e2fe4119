"""``POST /v1/embeddings``, ``/pooling``, and ``/classify``: one vector for each input."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter, Request, Response

from dovetail.api.cards import Task
from dovetail.engine.output.pooled import Pooled
from dovetail.engine.request.pooling_params import POOLING_TASKS, floats
from dovetail.server.context import ServerContext
from dovetail.server.http.openapi import route_docs
from dovetail.server.pooling.inputs import input_prompts, pooling_params
from dovetail.server.pooling.protocol import ClassificationRequest, EmbeddingRequest, PoolingRequest
from dovetail.server.pooling.run import common_fields, compute_vectors, list_response, pooling_job, pooling_usage
from dovetail.server.protocol.body import read_body


def router(context: ServerContext) -> APIRouter:
    """The routes that return one vector for each input."""
    routes = APIRouter(tags=["vectors"])

    @routes.post("/v1/embeddings", **route_docs(EmbeddingRequest, "The embedding of each input"))
    async def create_embeddings(request: Request) -> Response:
        return await _embed(context, request, await read_body(request, EmbeddingRequest), "embed", "embd", "embedding")

    @routes.post("/pooling", **route_docs(PoolingRequest, "What the model makes of each input, as it is"))
    async def pool(request: Request) -> Response:
        body = await read_body(request, PoolingRequest)
        task = context.require_task(*POOLING_TASKS if body.task is None else (body.task,))
        return await _embed(context, request, body, task, "pool", "pooling")

    summary = "The likeliest label of each input, and the probabilities of all"

    @routes.post("/classify", **route_docs(ClassificationRequest, summary))
    async def classify(request: Request) -> Response:
        return await _classify(context, request)

    @routes.post("/v1/classify", **route_docs(ClassificationRequest, summary))
    async def classify_v1(request: Request) -> Response:
        return await _classify(context, request)

    return routes


async def _embed(
    context: ServerContext, request: Request, body: EmbeddingRequest, task: Task, prefix: str, kind: str
) -> Response:
    model, adapter = context.select_model(body.model)
    context.require_task(task)
    job = pooling_job(context, body, await input_prompts(context, body, task), adapter)
    pooled = await compute_vectors(context, request, job, pooling_params(body, task))
    packed = body.encoding_format == "base64"

    def show(index: int, each: Pooled) -> dict[str, Any]:
        numbers = base64.b64encode(each.vector).decode() if packed else floats(each.vector)
        return {"index": index, "object": kind, "embedding" if kind == "embedding" else "data": numbers}

    return await list_response(
        context, common_fields(prefix, body, model, pooling_usage(job, pooled)), "data", pooled, show
    )


async def _classify(context: ServerContext, request: Request) -> Response:
    body = await read_body(request, ClassificationRequest)
    model, adapter = context.select_model(body.model)
    context.require_task("classify")
    job = pooling_job(context, body, await input_prompts(context, body, "classify"), adapter)
    pooled = await compute_vectors(context, request, job, pooling_params(body, "classify"))
    labels = context.engine.plan.config.get("id2label") or {}

    def show(index: int, each: Pooled) -> dict[str, Any]:
        probabilities = floats(each.vector)
        likeliest = max(range(len(probabilities)), key=probabilities.__getitem__)
        label = labels.get(str(likeliest), labels.get(likeliest, f"LABEL_{likeliest}"))
        return {"index": index, "label": label, "probs": probabilities, "num_classes": len(probabilities)}

    return await list_response(
        context, common_fields("classify", body, model, pooling_usage(job, pooled)), "data", pooled, show
    )

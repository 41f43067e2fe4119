"""Builds the web application: routes, middleware and error handlers."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from dovetail.server.chat import completions
from dovetail.server.chat import routes as chat
from dovetail.server.chat import stored_routes as stored_chats
from dovetail.server.context import ServerContext
from dovetail.server.engine_protocol import ServedEngine
from dovetail.server.generate.sse import DirectSendMiddleware
from dovetail.server.http.content_encoding import ContentEncodingMiddleware
from dovetail.server.http.keys import ApiKeyMiddleware
from dovetail.server.http.middleware import (
    CrossSiteMiddleware,
    RequestEndCallbacks,
    RequestIdMiddleware,
    RootPathMiddleware,
)
from dovetail.server.http.openapi import add_body_schemas
from dovetail.server.http.request_limits import BodyLimitMiddleware, ConcurrencyLimitMiddleware, EarlyAnswerMiddleware
from dovetail.server.http.request_rules import RefusalMiddleware
from dovetail.server.http.routing import MethodMiddleware, SlashMiddleware, install_error_handlers
from dovetail.server.http.user_middleware import load_middleware
from dovetail.server.messages import routes as messages
from dovetail.server.observe.counters import Counters
from dovetail.server.observe.http_metrics import HttpMetrics
from dovetail.server.observe.request_log import RequestLog
from dovetail.server.observe.tracing import create_tracer
from dovetail.server.operations import adapters, invocations, metrics, stats, status, tokenization
from dovetail.server.operations import engine_control as operations
from dovetail.server.page import routes as web_page
from dovetail.server.pooling import protocol as pooling_protocol
from dovetail.server.pooling import routes as pooling_routes
from dovetail.server.pooling import score_routes as pooling_scores
from dovetail.server.protocol.requests import (
    ChatCompletionRequest,
    CompletionRequest,
    LoadAdapterRequest,
    UnloadAdapterRequest,
)
from dovetail.server.rendering.renderer import Renderer
from dovetail.server.responses import routes as responses
from dovetail.server.settings import ServerSettings

ROUTERS = (
    status.router,
    stats.router,
    chat.router,
    stored_chats.router,
    completions.router,
    messages.router,
    responses.router,
    pooling_routes.router,
    pooling_scores.router,
    tokenization.router,
    adapters.router,
    operations.router,
    invocations.router,
)


def build_app(
    engine: ServedEngine,
    settings: ServerSettings,
    counters: Counters | None = None,
    created: int | None = None,
    store: str = "",
    renderer: Renderer | None = None,
) -> FastAPI:
    """Build the application that serves one engine.

    ``app.state.context`` is its :class:`ServerContext`. ``app.state.traces``, if set, must be closed at the end.

    Args:
        counters: shared by the processes with the same engine and settings. By default the process has its own.
        created: when the server started, in seconds since 1970. By default now.
        store: the database file of stored responses, shared by the processes. By default they are stored for this
            process only.
        renderer: runs chat templates. By default a :class:`~dovetail.server.rendering.pool.TemplatePool`, which ends
            with this process.

    Raises:
        UsageError: a middleware in the settings cannot be loaded.
    """
    context = ServerContext.create(engine, settings, counters, created, store, renderer)
    http_metrics = HttpMetrics(context.counters)
    traces = create_tracer(settings, context.model_names[0])
    on_request_end = [http_metrics.add, RequestLog(settings).add, *([traces.add] if traces else [])]
    app = FastAPI(
        title="Dovetail",
        version=version("dovetail"),
        openapi_url=None if settings.disable_fastapi_docs else "/openapi.json",
        redirect_slashes=False,
        middleware=_middleware(context, on_request_end),
    )
    app.state.context, app.state.traces = context, traces
    install_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router(context))
    app.include_router(metrics.router(context, http_metrics))
    if not settings.disable_web_page:
        app.include_router(web_page.router(context))
    add_body_schemas(
        app,
        ChatCompletionRequest,
        CompletionRequest,
        *pooling_protocol.BODIES,
        *tokenization.BODIES,
        *messages.BODIES,
        *responses.BODIES,
        *stored_chats.BODIES,
        LoadAdapterRequest,
        UnloadAdapterRequest,
    )
    return app


def _middleware(context: ServerContext, on_request_end: RequestEndCallbacks) -> list[Middleware]:
    settings = context.settings
    # Outermost first: browsers must be able to read errors, and their preflight requests carry no key.
    stack = []
    if settings.allowed_origins:
        stack.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.allowed_origins,
                allow_methods=settings.allowed_methods,
                allow_headers=settings.allowed_headers,
                allow_credentials=settings.allow_credentials,
                expose_headers=["X-Request-Id", "Retry-After", "X-Dovetail-Notice", "X-Dovetail-Ignored-Parameters"],
            )
        )
    stack.append(Middleware(RequestIdMiddleware, on_request_end=on_request_end, process=context.counters.row))
    stack.append(Middleware(EarlyAnswerMiddleware, max_bytes=8 * settings.max_request_bytes))
    stack.append(Middleware(RefusalMiddleware))
    if root := settings.root_path.rstrip("/"):
        stack.append(Middleware(RootPathMiddleware, path=root))
    if settings.middleware:
        # Whatever wraps their `send` must see every piece of a stream, so the short way to the socket begins behind them.
        stack += [*load_middleware(settings.middleware), Middleware(DirectSendMiddleware)]
    stack.append(Middleware(SlashMiddleware))
    if "*" not in settings.allowed_origins:
        stack.append(Middleware(CrossSiteMiddleware, allowed=settings.allowed_origins))
    if settings.api_key:
        stack.append(Middleware(ApiKeyMiddleware, keys=settings.api_key))
    if (limit := settings.max_concurrent_requests) is not None:
        stack.append(Middleware(ConcurrencyLimitMiddleware, requests=context.concurrent_requests, limit=limit))
    stack.append(Middleware(BodyLimitMiddleware, limit=settings.max_request_bytes, seconds=settings.receive_timeout))
    stack.append(Middleware(ContentEncodingMiddleware, limit=settings.max_request_bytes))
    stack.append(Middleware(MethodMiddleware))
    return stack

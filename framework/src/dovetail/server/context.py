"""What the routes share: the engine, the settings, and the requests that are being served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dovetail.api.cards import Task
from dovetail.engine.request.pooling_params import explain_missing_task
from dovetail.server.engine_protocol import ServedEngine
from dovetail.server.http.admission import Admission
from dovetail.server.http.disconnect import while_connected
from dovetail.server.http.errors import ApiError, engine_dead_error, engine_restarting_error, engine_sleeping_error
from dovetail.server.observe.counters import Counters, Gauge
from dovetail.server.observe.generation_metrics import GenerationMetrics
from dovetail.server.rendering.pool import TemplatePool
from dovetail.server.rendering.renderer import Renderer
from dovetail.server.settings import ServerSettings
from dovetail.server.stored.chats import ChatStore
from dovetail.server.stored.responses import ResponseStore
from dovetail.server.stored.store import Store
from dovetail.server.workers import SMALL_BYTES, Workers

T = TypeVar("T")
X = TypeVar("X")

CONVERTED_AT_ONCE = 256
"""Messages, items or tools that are converted without a thread, which takes about 5 ms."""
BYTES_PER_ENTRY = 128
"""Bytes of text that take about as long as a message."""


@dataclass
class ServerContext:
    """State of one server with one engine, shared by the routes.

    Attributes:
        model_names: names under which the model is served; the first is the main one.
        admission: refuses requests when too many sequences wait.
        counters: counted together with the other processes that serve this engine.
        open_requests: number of open requests, over all API processes.
        concurrent_requests: number of requests that count against ``--max-concurrent-requests``, over all API
            processes.
        generation_metrics: metrics of generation.
        created: when the server started, in seconds since 1970.
        renderer: runs chat templates.
        store: the database of stored responses and chat completions.
        response_store, chat_store: the two kinds in it.
        open_tasks: the tasks that serve requests in this process.
        closing_error: set when the server stops. It is the error for new requests, and for those still open at the end.
    """

    engine: ServedEngine
    settings: ServerSettings
    model_names: tuple[str, ...]
    admission: Admission
    counters: Counters
    open_requests: Gauge
    concurrent_requests: Gauge
    generation_metrics: GenerationMetrics
    created: int
    renderer: Renderer
    store: Store
    response_store: ResponseStore
    chat_store: ChatStore
    open_tasks: set[asyncio.Task[object]] = field(default_factory=set)
    closing_error: ApiError | None = None
    workers: Workers = field(default_factory=Workers)

    @classmethod
    def create(
        cls,
        engine: ServedEngine,
        settings: ServerSettings,
        counters: Counters | None = None,
        created: int | None = None,
        store: str = "",
        renderer: Renderer | None = None,
    ) -> ServerContext:
        """
        Args:
            counters, created, store, renderer: see :func:`dovetail.server.app.build_app`.
        """
        counters = counters or Counters.single_process()
        open_requests, sequences, concurrent_requests = (counters.gauge() for _ in range(3))
        model_names = settings.model_names(engine.plan.model)
        generation_metrics = GenerationMetrics(counters, engine.plan.max_model_len)
        admission = Admission(engine, sequences=sequences)
        answer_store = Store(settings.max_stored_responses, settings.max_stored_response_bytes, store)
        return cls(
            engine,
            settings,
            model_names,
            admission,
            counters,
            open_requests,
            concurrent_requests,
            generation_metrics,
            created or int(time.time()),
            renderer or _create_renderer(engine, settings),
            answer_store,
            ResponseStore(answer_store, counters.row),
            ChatStore(answer_store),
        )

    def check_health(self) -> None:
        """Check that requests can be served.

        Raises:
            ApiError: 503; no request can be served now.
        """
        if self.closing_error is not None:
            raise self.closing_error
        if not self.engine.alive:
            reason = self.engine.dead_reason
            raise engine_restarting_error(reason) if self.engine.restarting else engine_dead_error(reason)

    def select_model(self, requested: str | None) -> tuple[str, str | None]:
        """The model name for the response, and the adapter to run with.

        Raises:
            ApiError: the model is not served here, or no model is ready.
        """
        self.check_health()
        if self.engine.sleeping:
            raise engine_sleeping_error()
        name = self.resolve_model_name(requested)
        return name, name if name in self.engine.adapters else None

    def resolve_model_name(self, requested: str | None) -> str:
        """Resolve a model or adapter name; without a name, the main one.

        Raises:
            ApiError: the model is not served here.
        """
        if not requested:
            return self.model_names[0]
        if requested not in self.model_names and requested not in self.engine.adapters:
            offered = ", ".join((*self.model_names, *self.engine.adapters))
            message = f"the model {requested[:200]!r} does not exist; this server has {offered}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return requested

    def require_task(self, *tasks: Task) -> Task:
        """The first of these tasks that the model serves.

        Raises:
            ApiError: the model serves none of them. The message names its tasks and how to change them.
        """
        plan = self.engine.plan
        found = next((task for task in tasks if task in plan.tasks), None)
        if found is None:
            problem, hint = explain_missing_task(plan, *tasks)
            raise ApiError(400, f"{problem}; {hint}", param="model", code="unsupported_task")
        return found

    def require_store(self) -> None:
        """Check that this server stores responses.

        Raises:
            ApiError: it does not.
        """
        if not self.store.max_answers:
            message = "this server keeps no answers (--max-stored-responses 0)"
            raise ApiError(400, message, param="store", code="unsupported_value")

    async def run_in_worker(self, work: Callable[[], T], size: int = 0) -> T:
        """Run slow work in a thread, so that it does not delay other streams.

        Args:
            size: bytes of its input. Bulk work has threads of its own, and is dropped if the request's client leaves
                before it begins.

        Raises:
            ApiError: the client left.
        """
        if size <= SMALL_BYTES:
            return await self.workers.run(work, size)
        return await while_connected(self.workers.run(work, size))

    async def convert(self, work: Callable[[], T], entries: int) -> T:
        """Run work at once if it is on few entries, such as messages, and otherwise as :meth:`run_in_worker`."""
        if entries <= CONVERTED_AT_ONCE:  # nearly always
            return work()
        return await self.run_in_worker(work, BYTES_PER_ENTRY * entries)

    async def map_in_worker(self, work: Callable[[X], T], items: Sequence[X], size_of: Callable[[X], int]) -> list[T]:
        """Run slow work on each item in a thread; see :meth:`run_in_worker`. If the client leaves, the rest is dropped.

        Args:
            size_of: bytes of an item.
        """
        sizes = list(map(size_of, items))
        if sum(sizes) <= SMALL_BYTES:  # nearly always
            return await self.workers.run(lambda: list(map(work, items)))
        return await while_connected(self.workers.map(work, items, sizes))

    def abort_all(self, error: ApiError) -> None:
        """End every open request with an error, and refuse those that come later."""
        self.closing_error = error
        self.renderer.abort(error)
        for task in list(self.open_tasks):
            task.cancel()


def _create_renderer(engine: ServedEngine, settings: ServerSettings) -> Renderer:
    pool = TemplatePool(settings)
    pool.use(engine.tokenizer)
    return pool

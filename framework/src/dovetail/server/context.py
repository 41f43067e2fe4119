"""What the routes share: the engine, the settings, and the requests that are being served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from dovetail.api.cards import Task
from dovetail.engine.request.pooling_params import missing_task
from dovetail.server.engine_protocol import ServedEngine
from dovetail.server.http.admission import Admission
from dovetail.server.http.errors import ApiError, engine_dead, engine_restarting, engine_sleeping
from dovetail.server.observe.counters import Counters, Gauge
from dovetail.server.observe.generation_metrics import Measures
from dovetail.server.settings import ServerSettings
from dovetail.server.stored.chats import ChatStore
from dovetail.server.stored.responses import ResponseStore
from dovetail.server.stored.store import Store

T = TypeVar("T")


@dataclass
class ServerContext:
    """One server over one engine.

    Attributes:
        names: under which the model is served; the first is its main one.
        admission: lets requests in.
        counters: what is counted, together with the other processes that serve this engine.
        requests: being served, by all of them.
        taken: requests that ``--max-concurrent-requests`` counts, in all of them.
        measures: what is counted of generation.
        created: when the server began, in seconds since 1970.
        store: keeps answers.
        responses, chats: those that are kept.
        open: the tasks that serve requests now, in this process.
        closing: set once the server stops; the error that requests get which come then, or are still open in the end.
    """

    engine: ServedEngine
    settings: ServerSettings
    names: tuple[str, ...]
    admission: Admission
    counters: Counters
    requests: Gauge
    taken: Gauge
    measures: Measures
    created: int
    store: Store
    responses: ResponseStore
    chats: ChatStore
    open: set[asyncio.Task[object]] = field(default_factory=set)
    closing: ApiError | None = None
    # One thread: templates and tokenizers hold the interpreter's lock for most of their time.
    _worker: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="dovetail-tokenize")
    )

    @classmethod
    def make(
        cls,
        engine: ServedEngine,
        settings: ServerSettings,
        counters: Counters | None = None,
        created: int | None = None,
        store: str = "",
    ) -> ServerContext:
        counters = counters or Counters.alone()
        requests, sequences, taken = (counters.gauge() for _ in range(3))
        names = settings.names(engine.plan.model)
        measures = Measures(counters, engine.plan.max_model_len)
        admission = Admission(engine, sequences=sequences)
        kept = Store(settings.max_stored_responses, settings.max_stored_response_bytes, store)
        return cls(
            engine,
            settings,
            names,
            admission,
            counters,
            requests,
            taken,
            measures,
            created or int(time.time()),
            kept,
            ResponseStore(kept, counters.row),
            ChatStore(kept),
        )

    def check_health(self) -> None:
        """
        Raises:
            ApiError: 503; no request can be served now.
        """
        if self.closing is not None:
            raise self.closing
        if not self.engine.alive:
            reason = self.engine.dead_reason
            raise engine_restarting(reason) if self.engine.restarting else engine_dead(reason)

    def select(self, asked: str | None) -> tuple[str, str | None]:
        """The name to answer with, and the adapter to run with.

        Raises:
            ApiError: the model is not served here, or no model is now.
        """
        self.check_health()
        if self.engine.sleeping:
            raise engine_sleeping()
        name = self.served_name(asked)
        return name, name if name in self.engine.adapters else None

    def served_name(self, asked: str | None) -> str:
        """One of the names of the model or its adapters; without one, the main one.

        Raises:
            ApiError: the model is not served here.
        """
        if not asked:
            return self.names[0]
        if asked not in self.names and asked not in self.engine.adapters:
            offered = ", ".join((*self.names, *self.engine.adapters))
            message = f"the model {asked[:200]!r} does not exist; this server has {offered}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return asked

    def need_task(self, *tasks: Task) -> Task:
        """The first of these tasks that the model is run for.

        Raises:
            ApiError: it is run for none of them; says for which it is, and what would help.
        """
        plan = self.engine.plan
        found = next((task for task in tasks if task in plan.tasks), None)
        if found is None:
            problem, hint = missing_task(plan, *tasks)
            raise ApiError(400, f"{problem}; {hint}", param="model", code="unsupported_task")
        return found

    def need_store(self) -> None:
        """
        Raises:
            ApiError: this server keeps no answers.
        """
        if not self.store.most:
            message = "this server keeps no answers (--max-stored-responses 0)"
            raise ApiError(400, message, param="store", code="unsupported_value")

    async def in_worker(self, work: Callable[[], T]) -> T:
        """Run something that takes long to compute without holding up the streams of others."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def abort_all(self, error: ApiError) -> None:
        """End every open request with an error, and refuse those that come later."""
        self.closing = error
        for task in list(self.open):
            task.cancel()

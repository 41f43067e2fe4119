"""The processes that run chat templates: one that is always there, and more while it is busy for long."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Sequence

from dovetail.api.errors import RequestError
from dovetail.engine.templates import calls
from dovetail.engine.templates.calls import Answer, RenderCall, render_fields
from dovetail.engine.templates.facts import TemplateFacts
from dovetail.engine.templates.rendered_prompt import RenderedPrompt
from dovetail.server.engine_protocol import ServedTokenizer
from dovetail.server.rendering.template_child import Limits, TemplateChild
from dovetail.server.settings import ServerSettings

MOST_PROCESSES = 4
MEMORY_BYTES = 2**30
"""Memory of one question."""
LEAST_RESULT_BYTES = 2**24
RESULT_FACTOR = 4
"""A rendered text may have as many times the bytes of the largest request body."""
GROW_SECONDS = 0.05
"""A question that has waited for so long gets a process of its own."""
IDLE_SECONDS = 30.0
"""A process beside the first one ends when it had nothing to do for so long."""
REAP_SECONDS = 1.0
"""After which a killed process has surely ended."""
LEAVE_SECONDS = 0.25
"""What a question may still take when nobody waits for its answer any more. Most are answered in far less, and
replacing the process would cost more.
"""
FACTS_BYTES = 2**22
"""Templates whose facts are remembered, together."""


class TemplatePool:
    """A :class:`~dovetail.server.rendering.renderer.Renderer` over processes.

    It belongs to one event loop. The first process is started by :meth:`start`, or with the first question.

    Attributes:
        limits: of each question.
    """

    def __init__(self, settings: ServerSettings, most: int = MOST_PROCESSES) -> None:
        result_bytes = max(LEAST_RESULT_BYTES, RESULT_FACTOR * settings.max_request_bytes)
        self.limits = Limits(settings.chat_template_timeout, MEMORY_BYTES, result_bytes)
        self._most = most
        self._own: dict[str, int] = {}
        self._control_tokens: Sequence[str] = ()
        self._children: set[TemplateChild] = set()
        self._dying: list[TemplateChild] = []
        self._idle: list[TemplateChild] = []
        self._waiting: deque[asyncio.Future[TemplateChild]] = deque()
        self._growing: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Answer]] = set()
        self._error: Exception | None = None
        # A request's own template never has the last process, so that others are served while such templates hang.
        self._foreign = asyncio.Semaphore(max(most - 1, 1))
        self._facts = _FactsCache(FACTS_BYTES)

    def start(self) -> None:
        """Start the first process."""
        if not self._children:
            self._idle.append(self._spawn())

    def __enter__(self) -> TemplatePool:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def use(self, tokenizer: ServedTokenizer) -> None:
        """Say whose conversations are rendered, before the first question. The processes remember its templates."""
        own = tokenizer.chat_template
        known = [own] if isinstance(own, str) else [*(own or {}).values()]
        self._own = {template: number for number, template in enumerate(dict.fromkeys(known))}
        self._control_tokens = tokenizer.content_control_tokens

    async def find_facts(self, template: str, patterns: Sequence[str] = ()) -> TemplateFacts:
        key = (template, *patterns)
        if (known := self._facts.get(key)) is not None:
            return known
        found = (await self._ask(calls.FACTS, template, list(patterns))).content.unpack()
        assert isinstance(found, TemplateFacts)
        self._facts.add(key, found)
        return found

    async def render(self, call: RenderCall) -> RenderedPrompt:
        rendered = (await self._ask(calls.RENDER, call.template, *render_fields(call))).content.unpack()
        assert isinstance(rendered, RenderedPrompt)
        return rendered

    async def _ask(self, kind: str, template: str, *fields: object) -> Answer:
        if template in self._own:
            return await self._ask_child(kind, template, *fields)
        async with self._foreign:
            return await self._ask_child(kind, template, *fields)

    async def _ask_child(self, kind: str, template: str, *fields: object) -> Answer:
        child = await self._acquire()
        task = asyncio.create_task(self._run(child, kind, template, *fields))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_forget_error)
            asyncio.get_running_loop().call_later(LEAVE_SECONDS, task.cancel)
            raise

    async def _run(self, child: TemplateChild, kind: str, template: str, *fields: object) -> Answer:
        key = self._own.get(template)
        answered = False
        try:
            await child.wait_until_ready()
            async with asyncio.timeout(self.limits.seconds):
                answer = await child.ask(kind, template, *fields, key=key, control_tokens=self._control_tokens)
                answered = True
                return answer
        except TimeoutError:
            raise self._error or RequestError(
                f"the chat template takes more than {self.limits.seconds:g} s for these messages",
                "shorten them, or start the server with a simpler --chat-template or a longer --chat-template-timeout",
                param="messages" if key is not None else "chat_template",
            ) from None
        except Exception as error:
            raise (self._error or error) from None
        finally:
            self._release(child, reusable=answered)

    # -- processes

    async def _acquire(self) -> TemplateChild:
        """A process that is not busy; whoever gets it must release it.

        Raises:
            Exception: as given to :meth:`abort`.
        """
        if self._error is not None:
            raise self._error
        while self._idle:
            child = self._idle.pop()
            if child.usable:
                return child
            self._remove(child)
        if not self._children:
            return self._spawn()
        waiting: asyncio.Future[TemplateChild] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self._grow_later()
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                self._release(waiting.result(), reusable=True)
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiting)

    def _release(self, child: TemplateChild, *, reusable: bool) -> None:
        if child not in self._children:  # aborted
            child.kill()  # which closes its socket, now that nobody waits for it
            return
        if not (reusable and child.usable):
            self._remove(child)
            if self._children and not self._waiting:
                return
            try:
                child = self._spawn()  # the next question shall not wait for its start
            except OSError as error:
                self._fail_waiting(error)
                return
        if (waiting := self._next_waiting()) is not None:
            waiting.set_result(child)
            return
        self._idle.append(child)
        if len(self._children) > 1:
            asyncio.get_running_loop().call_later(IDLE_SECONDS, self._retire, child, child.uses)

    def _next_waiting(self) -> asyncio.Future[TemplateChild] | None:
        while self._waiting:
            if not (waiting := self._waiting.popleft()).done():
                return waiting
        return None

    def _fail_waiting(self, error: Exception) -> None:
        while (waiting := self._next_waiting()) is not None:
            waiting.set_exception(error)

    def _grow_later(self) -> None:
        if self._growing is None and len(self._children) < self._most:
            self._growing = asyncio.get_running_loop().call_later(GROW_SECONDS, self._grow)

    def _grow(self) -> None:
        self._growing = None
        if len(self._children) < self._most and (waiting := self._next_waiting()) is not None:
            try:
                waiting.set_result(self._spawn())
            except OSError as error:
                waiting.set_exception(error)
            if self._waiting:
                self._grow_later()

    def _retire(self, child: TemplateChild, uses: int) -> None:
        if child in self._idle and child.uses == uses and len(self._children) > 1:
            self._idle.remove(child)
            self._remove(child)

    def _spawn(self) -> TemplateChild:
        child = TemplateChild(self.limits)
        self._children.add(child)
        return child

    def _remove(self, child: TemplateChild) -> None:
        self._children.discard(child)
        child.kill()
        self._dying.append(child)
        asyncio.get_running_loop().call_later(REAP_SECONDS, self._reap)

    def _reap(self) -> None:
        self._dying = [child for child in self._dying if not child.ended]

    def abort(self, error: Exception) -> None:
        """Kill the processes. What is asked now and later ends with the error."""
        self._error = error
        self._fail_waiting(error)
        for task in self._tasks:
            task.add_done_callback(_forget_error)
        for child in self._children:
            child.kill()
        self._dying += self._children
        self._children.clear()
        self._idle.clear()

    def close(self) -> None:
        """Kill the processes, and wait until they have ended."""
        self.abort(RuntimeError("the server has stopped"))
        if self._growing is not None:
            self._growing.cancel()
        for child in self._dying:
            child.wait()


def _forget_error(task: asyncio.Task[Answer]) -> None:
    """Nobody waits for the answer, so that asyncio need not warn of its error."""
    if not task.cancelled():
        task.exception()


class _FactsCache:
    """Facts of the templates that were used last, bounded by the size of their sources."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._size = 0
        self._facts: OrderedDict[tuple[str, ...], TemplateFacts] = OrderedDict()

    def get(self, key: tuple[str, ...]) -> TemplateFacts | None:
        found = self._facts.get(key)
        if found is not None:
            self._facts.move_to_end(key)
        return found

    def add(self, key: tuple[str, ...], facts: TemplateFacts) -> None:
        if key in self._facts:
            return
        self._facts[key] = facts
        self._size += _size(key)
        while self._size > self._most and len(self._facts) > 1:
            oldest, _ = self._facts.popitem(last=False)
            self._size -= _size(oldest)


def _size(key: tuple[str, ...]) -> int:
    return sum(map(len, key)) * 4

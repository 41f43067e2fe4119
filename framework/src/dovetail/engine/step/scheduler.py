"""Who computes how many tokens in the next step.

Prefill, chunked prefill, drafts of speculative decoding and decode are one case: every request has some tokens that are not computed yet, and a step hands
out a budget of tokens among them. Streams come first, so that they keep flowing; then prompts that were begun; what is left admits waiting requests.
"""

from __future__ import annotations

import time
from bisect import insort
from dataclasses import dataclass, field
from typing import Literal, Protocol

from dovetail.engine.engine_request import Request
from dovetail.engine.kv.manager import KVCacheManager
from dovetail.engine.step.pace import Pace

SMALLEST_CHUNK = 64
"""A longer prompt is not begun with fewer tokens than this, if its step has more for prompts: each chunk costs a pass over the weights."""
SHORT = 256
"""Prompts of so few tokens are not drawn out over several steps to keep to the pace."""

Policy = Literal["fcfs", "priority"]


@dataclass
class Schedule:
    """One step's work.

    Attributes:
        tokens: request → how many tokens to compute now, its drafts included; in the batch's order.
        preempted: requests that lost their blocks and wait again.
        streams: how many requests get the token that follows their newest one.
        prefill: how many of the tokens belong to prompts (or are computed anew).
    """

    tokens: dict[Request, int] = field(default_factory=dict)
    preempted: list[Request] = field(default_factory=list)
    streams: int = 0
    prefill: int = 0


class Gate(Protocol):
    """What a request needs besides room in the cache."""

    def may_enter(self, request: Request) -> bool:
        """Whether it could run now. Asked at every step; those that may not are passed over."""
        ...

    def enter(self, request: Request) -> None: ...

    def leave(self, request: Request) -> None: ...


class Scheduler:
    """Hands out the token budget in order of arrival, or of priority and then arrival.

    Args:
        max_seqs: requests that run at once.
        max_tokens: of one step.
        kv: where the blocks come from.
        policy: with ``priority``, a request of a lower number also takes the place of a running one of a higher number.
        pace: limits prompts beside streams.
        gate: what else a request needs to run.
    """

    def __init__(
        self,
        max_seqs: int,
        max_tokens: int,
        kv: KVCacheManager,
        policy: Policy = "fcfs",
        pace: Pace | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.max_seqs = max_seqs
        self.max_tokens = max_tokens
        self.kv = kv
        self.policy = policy
        self.pace = pace or Pace(0)
        self.gate = gate
        self.waiting: list[Request] = []  # both in the order of their keys
        self.running: list[Request] = []
        self.preemptions = 0

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def _key(self, request: Request) -> tuple[int, int]:
        return (request.priority if self.policy == "priority" else 0, request.arrival)

    def add(self, request: Request) -> None:
        insort(self.waiting, request, key=self._key)

    def remove(self, request: Request) -> None:
        """Forget a finished or aborted request and free its blocks."""
        if request in self.running:
            self._leave(request)
        else:
            self.waiting.remove(request)

    def _leave(self, request: Request) -> None:
        self.running.remove(request)
        self.kv.release(request)
        if self.gate:
            self.gate.leave(request)

    def schedule(self) -> Schedule:
        """Plan the next step. Every request in it has blocks for all its tokens up to the step's end, and :attr:`Request.computed` still says what
        was computed before it.
        """
        step = Schedule()
        self._yield_to_the_urgent(step)
        yielded = len(step.preempted)
        budget = self.max_tokens
        # A request that is known to have got its last token only waits for the host to see it.
        runnable = [r for r in self.running if r.total < r.max_len]
        streams = [r for r in runnable if r.pending == 1]
        guesses = budget - len(streams)
        if self.waiting or len(streams) < len(runnable):
            # Good guesses never end, so prompts must not depend on what they leave.
            guesses -= min((guesses + 1) // 2, SMALLEST_CHUNK)
        for request in streams:
            if budget <= 0:
                break
            count = self._continue(request, min(1 + min(len(request.draft), max(guesses, 0)), budget), step)
            guesses -= max(count - 1, 0)
            budget -= count
        step.streams = len(step.tokens)
        begun = [r for r in runnable if r.pending > 1]
        seats = self.max_seqs - len(self.running)
        allowed = self.pace.allowance(step.streams, len(begun) + min(len(self.waiting), seats))
        allowed = budget if allowed is None else min(allowed, budget)
        share = allowed
        for place, request in enumerate(begun):
            if allowed <= 0:
                break
            count = self._chunk(request.pending, allowed, place + 1 < len(begun) or bool(self.waiting))
            before = len(step.preempted)
            allowed -= self._continue(request, count, step)
            if len(step.preempted) > before:  # what the victims had is not handed out again in this step
                allowed = min(allowed, self.max_tokens - sum(step.tokens.values()))
        for request, count in step.tokens.items():
            self.kv.publish(request, request.computed + count)
        # A request that has just lost its blocks must not be admitted again at the cost of those that stayed.
        if len(step.preempted) == yielded:
            self._admit(step, allowed, share, self.max_tokens - sum(step.tokens.values()))
        step.prefill = sum(n for r, n in step.tokens.items() if r.pending > 1)
        return step

    def _continue(self, request: Request, count: int, step: Schedule) -> int:
        """Schedule a running request, taking the blocks of the last in line if need be; the tokens that it got."""
        if request.kv is None:  # it has lost its own to one that was before it
            return 0
        while not self.kv.grow(request, request.computed + count):
            if request.draft and count > request.pending:
                count = request.pending  # guesses are worth nobody's place
                continue
            victim = self.running[-1]
            if victim is request and len(self.running) == 1 and count > 1:
                count //= 2  # alone, it always finds room for a smaller chunk: its context was made to fit
                continue
            self._preempt(victim, step)
            if victim is request:
                return 0
        step.tokens[request] = count
        return count

    def preempt_all(self) -> list[Request]:
        """Take every running request's blocks; they wait again."""
        step = Schedule()
        while self.running:
            self._preempt(self.running[-1], step)
        return step.preempted

    def _preempt(self, victim: Request, step: Schedule) -> None:
        # Its tokens are kept and computed anew, as if they were all prompt: recomputing costs one prefill, and no memory meanwhile.
        self._leave(victim)
        step.tokens.pop(victim, None)
        victim.computed = 0
        victim.draft = []
        self.add(victim)
        step.preempted.append(victim)
        self.preemptions += 1

    def _yield_to_the_urgent(self, step: Schedule) -> None:
        """Make room for a waiting request of a lower priority number than a running one has."""
        if self.policy != "priority":
            return
        while self.waiting and self.running and self.waiting[0].priority < self.running[-1].priority:
            urgent = self.waiting[0]
            seats = len(self.running) < self.max_seqs
            if seats and self.kv.fits(urgent, self.kv.find(urgent), self.max_tokens):
                return
            if not self._may_enter(urgent):
                return
            self._preempt(self.running[-1], step)

    def _may_enter(self, request: Request) -> bool:
        return not request.unseen and (self.gate is None or self.gate.may_enter(request))

    @staticmethod
    def _chunk(pending: int, allowed: int, others: bool) -> int:
        """A prompt that this step cannot finish leaves half of the step to those behind it, so that short ones get through."""
        if pending <= allowed or not others:
            return min(pending, allowed)
        return max(allowed // 2, min(allowed, SMALLEST_CHUNK))

    def _admit(self, step: Schedule, allowed: int, share: int, left: int) -> None:
        """Begin waiting requests.

        Short prompts are computed at once, up to :data:`SHORT` tokens of them in a step: a stream is better off with one pause for a new companion than
        with many short ones.

        Args:
            allowed: what is left of ``share``, the tokens of prompts that keep to the pace.
            left: of the step's budget.
        """
        quick = max(SHORT, allowed)
        place = 0
        while place < len(self.waiting) and left > 0 and len(self.running) < self.max_seqs:
            request = self.waiting[place]
            if not self._may_enter(request):
                place += 1
                continue
            prefix = self.kv.find(request)
            # Room for its first chunk alone would only have it run into the wall with the next, and begin anew.
            if not self.kv.fits(request, prefix, left):
                break
            pending = request.total - prefix.tokens
            if pending <= min(SHORT, quick, left):
                count = pending
                quick -= count
            elif (room := min(allowed, left)) > 0 and room >= min(share, pending, SMALLEST_CHUNK):
                count = self._chunk(pending, room, place + 1 < len(self.waiting))
                allowed -= count
                quick -= count
            else:
                break
            self.kv.admit(request, prefix)
            while not self.kv.grow(request, request.computed + count):
                count //= 2  # a window's blocks may allow less at once than the step does
                assert count, "the cache cannot hold even one request"
            if self.gate:
                self.gate.enter(request)
            if request.cached is None:
                request.cached = prefix.tokens
                request.admitted = time.monotonic()
            del self.waiting[place]
            insort(self.running, request, key=self._key)
            step.tokens[request] = count
            self.kv.publish(request, request.computed + count)
            left -= count

"""Who computes how many tokens in the next step.

Prefill, chunked prefill and decode are one case: every request has some tokens that are not computed yet, and a step hands out a budget of
tokens among them. Running requests come first, so that streams keep flowing; what is left admits waiting ones, in order of arrival.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from dovetail.engine.kv_cache import KVCacheManager
from dovetail.engine.request import Request


@dataclass
class Schedule:
    """One step's work.

    Attributes:
        tokens: request → how many of its pending tokens to compute now; in the batch's order.
        preempted: requests that lost their blocks and wait again.
    """

    tokens: dict[Request, int] = field(default_factory=dict)
    preempted: list[Request] = field(default_factory=list)


class Scheduler:
    """First come, first served, under one token budget.

    Args:
        max_seqs: requests that run at once.
        max_tokens: of one step.
        kv: where the blocks come from.
    """

    def __init__(self, max_seqs: int, max_tokens: int, kv: KVCacheManager) -> None:
        self.max_seqs = max_seqs
        self.max_tokens = max_tokens
        self.kv = kv
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def schedule(self) -> Schedule:
        """Plan the next step. Every request in it has blocks for all its tokens up to the step's end."""
        step, budget = Schedule(), self.max_tokens
        position = 0
        while position < len(self.running) and budget > 0:
            request = self.running[position]
            count = min(request.pending, budget)
            if not self._make_room(request, count, step):
                break  # it was itself the last in line, and now waits
            step.tokens[request] = count
            budget -= count
            position += 1
        # A request that has just lost its blocks must not be admitted again at the cost of those that stayed.
        while self.waiting and budget > 0 and not step.preempted and len(self.running) < self.max_seqs:
            request = self.waiting[0]
            # Room for its first chunk alone would only have it run into the wall with the next, and begin anew.
            if not self.kv.fits(request):
                break
            count = min(request.pending, budget)
            grown = self.kv.grow(request, request.computed + count)
            assert grown
            self.running.append(self.waiting.popleft())
            step.tokens[request] = count
            budget -= count
        assert step.tokens or self.idle, "the cache cannot hold even one request"
        return step

    def _make_room(self, request: Request, count: int, step: Schedule) -> bool:
        """Grow the request's blocks, taking those of the latest arrivals if need be; False if it had to give up its own."""
        while not self.kv.grow(request, request.computed + count):
            victim = self.running[-1]
            self._preempt(victim, step)
            if victim is request:
                return False
        return True

    def _preempt(self, victim: Request, step: Schedule) -> None:
        # Its tokens are kept and computed anew, as if they were all prompt: recomputing costs one prefill, and no memory meanwhile.
        self.running.remove(victim)
        self.kv.release(victim)
        victim.computed = 0
        self.waiting.appendleft(victim)
        step.preempted.append(victim)

    def remove(self, request: Request) -> None:
        """Forget a finished or aborted request and free its blocks."""
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove(request)
        self.kv.release(request)

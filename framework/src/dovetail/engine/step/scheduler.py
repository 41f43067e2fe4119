"""The scheduler: decides which requests compute how many tokens in the next step.

Prefill, chunked prefill, drafts of speculative decoding and decode are one case: every request has some tokens that are
not computed yet, and a step divides a budget of tokens among them. Decoding requests come first, then prompts in
progress, then waiting requests.
"""

from __future__ import annotations

import time
from bisect import insort
from dataclasses import dataclass, field
from typing import Literal, Protocol

from dovetail.engine.engine_request import Request
from dovetail.engine.kv.manager import KVCacheManager
from dovetail.engine.step.prefill_limiter import PrefillLimiter

MIN_PREFILL_CHUNK = 64
"""A longer prompt does not start with fewer tokens than this, if the step's limit for prompts allows more, because
each chunk costs a pass over the weights.
"""
SHORT_PROMPT_TOKENS = 256
"""Prompts up to this length are not divided into several steps by the prefill limiter."""

Policy = Literal["fcfs", "priority"]


@dataclass
class SchedulerOutput:
    """The work of one step.

    Attributes:
        tokens: request → how many tokens to compute now, its draft included; in the batch's order.
        preempted: requests that lost their blocks and wait again.
        num_decodes: how many requests get the token that follows their newest one.
        num_prefill_tokens: how many of the tokens belong to prompts (or are recomputed).
    """

    tokens: dict[Request, int] = field(default_factory=dict)
    preempted: list[Request] = field(default_factory=list)
    num_decodes: int = 0
    num_prefill_tokens: int = 0


class AdmissionGate(Protocol):
    """Checks and reserves what a request needs besides KV-cache blocks."""

    def can_admit(self, request: Request) -> bool:
        """Whether the request could run now. Called at every step; a request that cannot run is skipped."""
        ...

    def acquire(self, request: Request) -> None: ...

    def release(self, request: Request) -> None: ...


class Scheduler:
    """Divides the token budget in order of arrival, or of priority and then arrival.

    Args:
        max_seqs: maximum number of running requests.
        max_tokens: of one step.
        kv: allocates the blocks.
        policy: with ``priority``, a request of a lower number can also preempt a running one of a higher number.
        prefill_limiter: limits prefill beside decoding requests.
        gate: what else a request needs to run.
        whole_prompts: compute each prompt in one step. None may be longer than ``max_tokens``.
    """

    def __init__(
        self,
        max_seqs: int,
        max_tokens: int,
        kv: KVCacheManager,
        policy: Policy = "fcfs",
        prefill_limiter: PrefillLimiter | None = None,
        gate: AdmissionGate | None = None,
        *,
        whole_prompts: bool = False,
    ) -> None:
        self.max_seqs = max_seqs
        self.max_tokens = max_tokens
        self.kv = kv
        self.policy = policy
        self.prefill_limiter = prefill_limiter or PrefillLimiter(0)
        self.gate = gate
        self.whole_prompts = whole_prompts
        self.waiting: list[Request] = []  # both in the order of their keys
        self.running: list[Request] = []
        self.preemptions = 0

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def _sort_key(self, request: Request) -> tuple[int, int]:
        return (request.priority if self.policy == "priority" else 0, request.arrival_index)

    def add(self, request: Request) -> None:
        insort(self.waiting, request, key=self._sort_key)

    def remove(self, request: Request) -> None:
        """Remove a finished or aborted request and free its blocks."""
        if request in self.running:
            self._stop_running(request)
        else:
            self.waiting.remove(request)

    def _stop_running(self, request: Request) -> None:
        self.running.remove(request)
        self.kv.release(request)
        if self.gate:
            self.gate.release(request)

    def schedule(self) -> SchedulerOutput:
        """Plan the next step. Every request in it has blocks for all tokens up to the step's end.
        :attr:`Request.num_computed_tokens` still is the number before the step.
        """
        step = SchedulerOutput()
        self._preempt_for_priority(step)
        num_preempted = len(step.preempted)
        budget = self.max_tokens
        # A request that is known to have got its last token only waits for the host to see it.
        runnable = [r for r in self.running if r.num_tokens < r.max_len]
        streams = [r for r in runnable if r.num_pending_tokens == 1]
        draft_budget = budget - len(streams)
        if self.waiting or len(streams) < len(runnable):
            # Good drafts fill every step, so prompts must not depend on what they leave.
            draft_budget -= min((draft_budget + 1) // 2, MIN_PREFILL_CHUNK)
        for request in streams:
            if budget <= 0:
                break
            count = self._schedule_running(
                request, min(1 + min(len(request.draft_token_ids), max(draft_budget, 0)), budget), step
            )
            draft_budget -= max(count - 1, 0)
            budget -= count
        step.num_decodes = len(step.tokens)
        prefilling = [r for r in runnable if r.num_pending_tokens > 1]
        free_seats = self.max_seqs - len(self.running)
        allowed = self.prefill_limiter.max_prefill_tokens(
            step.num_decodes, len(prefilling) + min(len(self.waiting), free_seats)
        )
        allowed = budget if allowed is None else min(allowed, budget)
        share = allowed
        for place, request in enumerate(prefilling):
            if allowed <= 0:
                break
            count = self._prefill_chunk_size(
                request.num_pending_tokens, allowed, place + 1 < len(prefilling) or bool(self.waiting)
            )
            before = len(step.preempted)
            allowed -= self._schedule_running(request, count, step)
            if len(step.preempted) > before:  # the preempted requests' tokens are not scheduled again in this step
                allowed = min(allowed, self.max_tokens - sum(step.tokens.values()))
        for request, count in step.tokens.items():
            self.kv.cache_blocks(request, request.num_computed_tokens + count)
        # A request that has just lost its blocks must not be admitted again at the cost of those that stayed.
        if len(step.preempted) == num_preempted:
            self._schedule_waiting(step, allowed, share, self.max_tokens - sum(step.tokens.values()))
        step.num_prefill_tokens = sum(n for r, n in step.tokens.items() if r.num_pending_tokens > 1)
        return step

    def _schedule_running(self, request: Request, count: int, step: SchedulerOutput) -> int:
        """Schedule a running request, preempting the last running request if blocks are missing. Returns the number
        of scheduled tokens.
        """
        if request.kv_blocks is None:  # it has lost its own to one that was before it
            return 0
        while not self.kv.allocate_slots(request, request.num_computed_tokens + count):
            if request.draft_token_ids and count > request.num_pending_tokens:
                count = request.num_pending_tokens  # a draft must not preempt another request
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
        """Preempt every running request."""
        step = SchedulerOutput()
        while self.running:
            self._preempt(self.running[-1], step)
        return step.preempted

    def _preempt(self, victim: Request, step: SchedulerOutput) -> None:
        # Its tokens are kept and recomputed as if they were all prompt. This costs one prefill, and no memory
        # meanwhile.
        self._stop_running(victim)
        step.tokens.pop(victim, None)
        victim.num_computed_tokens = 0
        victim.draft_token_ids = []
        self.add(victim)
        step.preempted.append(victim)
        self.preemptions += 1

    def _preempt_for_priority(self, step: SchedulerOutput) -> None:
        """Preempt a running request with a higher priority number than a waiting one."""
        if self.policy != "priority":
            return
        while self.waiting and self.running and self.waiting[0].priority < self.running[-1].priority:
            urgent = self.waiting[0]
            free_seats = len(self.running) < self.max_seqs
            if free_seats and self.kv.can_fit(urgent, self.kv.find_prefix(urgent), self.max_tokens):
                return
            if not self._can_admit(urgent):
                return
            self._preempt(self.running[-1], step)

    def _can_admit(self, request: Request) -> bool:
        return not request.num_in_flight_tokens and (self.gate is None or self.gate.can_admit(request))

    @staticmethod
    def _prefill_chunk_size(pending: int, allowed: int, others: bool) -> int:
        """A prompt that this step cannot finish leaves half of the step to the prompts after it, so that short ones
        can start.
        """
        if pending <= allowed or not others:
            return min(pending, allowed)
        return max(allowed // 2, min(allowed, MIN_PREFILL_CHUNK))

    def _schedule_waiting(self, step: SchedulerOutput, allowed: int, share: int, left: int) -> None:
        """Start waiting requests.

        Short prompts are computed whole, up to :data:`SHORT_PROMPT_TOKENS` of their tokens in a step, because one
        longer step disturbs decoding less than several short ones.

        Args:
            allowed: what is left of ``share``, the prompt tokens that the prefill limiter allows.
            left: of the step's budget.
        """
        quick = max(SHORT_PROMPT_TOKENS, allowed)
        place = 0
        while place < len(self.waiting) and left > 0 and len(self.running) < self.max_seqs:
            request = self.waiting[place]
            if not self._can_admit(request):
                place += 1
                continue
            prefix = self.kv.find_prefix(request)
            # With room only for its first chunk, it would be preempted at the next one and start again.
            if not self.kv.can_fit(request, prefix, left):
                break
            pending = request.num_tokens - prefix.tokens
            if self.whole_prompts:
                if pending > left:
                    break
                count = pending
            elif pending <= min(SHORT_PROMPT_TOKENS, quick, left):
                count = pending
                quick -= count
            elif (room := min(allowed, left)) > 0 and room >= min(share, pending, MIN_PREFILL_CHUNK):
                count = self._prefill_chunk_size(pending, room, place + 1 < len(self.waiting))
                allowed -= count
                quick -= count
            else:
                break
            self.kv.claim_prefix(request, prefix)
            while not self.kv.allocate_slots(request, request.num_computed_tokens + count):
                count //= 2  # a window's blocks may allow less at once than the step does
                assert count, "the cache cannot hold even one request"
            if self.gate:
                self.gate.acquire(request)
            if request.num_cached_tokens is None:
                request.num_cached_tokens = prefix.tokens
                request.first_scheduled_time = time.monotonic()
            del self.waiting[place]
            insort(self.running, request, key=self._sort_key)
            step.tokens[request] = count
            self.kv.cache_blocks(request, request.num_computed_tokens + count)
            left -= count

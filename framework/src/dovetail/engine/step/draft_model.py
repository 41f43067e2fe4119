"""The draft model of speculative decoding: drafts the likeliest tokens, for all requests in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from dovetail.api.proposer import DraftRequest, ProposerContext
from dovetail.engine.engine_request import Request
from dovetail.engine.kv.groups import KVCacheGroup
from dovetail.engine.kv.manager import KVCacheManager
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.sampling.metadata import SamplingMetadata
from dovetail.engine.sampling.tables import SamplingTables
from dovetail.engine.step.drafting import CachingProposer, EngineProposerContext
from dovetail.engine.step.input_batch import InputBatch
from dovetail.engine.step.runner import LaunchedStep, ModelRunner
from dovetail.engine.step.scheduler import SchedulerOutput
from dovetail.engine.step.sleep import Sleeper

GREEDY_PARAMS = SamplingParams(temperature=0, max_tokens=None)


@dataclass
class DraftSequence:
    """A request's sequence in the draft model.

    Attributes:
        request: its tokens are the verified ones, then the draft.
        num_verified: number of verified tokens.
    """

    request: Request
    num_verified: int = 0

    def sync_tokens(self, tokens: Sequence[int], batch: InputBatch) -> None:
        """Take over the request's new tokens. Accepted draft tokens keep their places in the cache; the others are
        overwritten.
        """
        own = self.request
        same, stop = self.num_verified, min(len(own.tokens), len(tokens))
        while same < stop and own.tokens[same] == tokens[same]:
            same += 1
        own.tokens[same:] = tokens[same:]
        # The newest token is computed in any case, because it gives the first draft token.
        own.num_computed_tokens = min(own.num_computed_tokens, same, len(tokens) - 1)
        if own.row >= 0:
            batch.tokens[own.row, same : len(tokens)] = tokens[same:]
            batch.num_host_tokens[own.row] = len(tokens)
            batch.has_device_token[own.row] = False
        self.num_verified = len(tokens)


class DraftModel(CachingProposer):
    """Runs the draft model beside the main one, with its own KV cache.

    A call first computes the new tokens of each sequence, then drafts token by token. On a device that queues work,
    nothing waits in between. A prompt is computed in chunks, so that no call computes more tokens than a step may. A
    request gets no draft if there are too few blocks, or if it is longer than this model's context.
    """

    def __init__(self, config: BaseModel, context: ProposerContext) -> None:
        assert isinstance(context, EngineProposerContext)
        assert context.draft is not None
        self.context = context
        self.runner = ModelRunner(context.draft, context.block_size)
        self.limit = context.draft.max_model_len

    @property
    def groups(self) -> list[KVCacheGroup]:
        return self.runner.groups

    @property
    def weight_bytes(self) -> int:
        return self.runner.weight_bytes

    def activation_bytes(self) -> int:
        runner, context = self.runner, self.context
        found = runner.activation_bytes(context.max_tokens, context.max_seqs)
        if runner.platform.supports_graphs and not context.eager:
            found += runner.activation_bytes(context.max_seqs, context.max_seqs)
        return found

    def begin(self, counts: list[int], max_len: int) -> None:
        runner, context = self.runner, self.context
        self.max_len = min(self.limit, max_len)
        runner.clear_graphs()
        runner.allocate(counts)
        self.kv = KVCacheManager(runner.groups, counts, context.block_size, enable_caching=False)
        self.batch = InputBatch(context.max_seqs, self.max_len, context.block_size, len(runner.groups), runner.platform)
        rows = SamplingTables(context.max_seqs, runner.config.vocab_size, runner.device, runner.platform.upload)
        runner.bind_batch(self.batch, rows, eager=context.eager, async_scheduling=True, max_len=self.max_len)
        self.sleeper = Sleeper(runner, counts)
        self._sequences: dict[str, DraftSequence] = {}

    def sleep(self, level: int) -> None:
        self.forget(list(self._sequences))
        self.sleeper.sleep(level)

    def wake_up(self, tags: list[str] | None) -> None:
        self.sleeper.wake_up(tags)

    def forget(self, ids: Iterable[str]) -> None:
        for id in ids:
            if own_sequence := self._sequences.pop(id, None):
                self.kv.release(own_sequence.request)
                self.batch.remove(own_sequence.request)

    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        active = {s.id for s in sequences}
        own_requests = {
            s.id: self._sync_sequence(s, active) for s in sequences if len(s.tokens) + s.max_tokens <= self.max_len
        }
        step, ready = self._catch_up(
            [(own_requests[s.id], s.max_tokens) for s in sequences if s.id in own_requests], active
        )
        steps = [self._launch(step)] if step.tokens else []
        steps += [
            self._launch(SchedulerOutput({r: 1 for r, most in ready.items() if most > done}))
            for done in range(1, max(ready.values(), default=0))
        ]
        for launched in steps:
            self._collect(launched)
        return [
            own_requests[s.id].tokens[len(s.tokens) :] if s.id in own_requests and own_requests[s.id] in ready else []
            for s in sequences
        ]

    def _catch_up(
        self, requested: list[tuple[Request, int]], active: set[str]
    ) -> tuple[SchedulerOutput, dict[Request, int]]:
        """A step that computes the new tokens of each request, and so its first draft token. Also returns the
        requests that it completes, and how many draft tokens each gets.
        """
        step, ready = SchedulerOutput(), {}
        budget = self.context.max_tokens
        # Those that lack little first: a long prompt must not keep the others waiting.
        for request, most in sorted(requested, key=lambda pair: pair[0].num_pending_tokens):
            count = min(request.num_pending_tokens, budget)
            whole = count == request.num_pending_tokens
            # The last draft token is not computed, unless it is accepted.
            if count and self._make_room(
                request, request.num_computed_tokens + count + (most - 1 if whole else 0), active
            ):
                step.tokens[request] = count
                budget -= count
                if whole:
                    ready[request] = most
        return step, ready

    def _sync_sequence(self, sequence: DraftRequest, active: set[str]) -> Request:
        own_sequence = self._sequences.get(sequence.id)
        if own_sequence is None:
            if len(self._sequences) == self.context.max_seqs:
                self._evict_one(active)  # there are no free rows, and some belong to requests that pause drafting
            request = Request(
                sequence.id, [], GREEDY_PARAMS, num_prompt_tokens=0, max_len=self.max_len, eos_ids=frozenset()
            )
            self.kv.claim_prefix(request, self.kv.find_prefix(request))
            own_sequence = self._sequences[sequence.id] = DraftSequence(request)
        own_sequence.sync_tokens(sequence.tokens, self.batch)
        return own_sequence.request

    def _make_room(self, request: Request, tokens: int, active: set[str]) -> bool:
        while not self.kv.allocate_slots(request, tokens):
            if not self._evict_one(active):
                return False
        return True

    def _evict_one(self, active: set[str]) -> bool:
        """Evict a sequence that gets no draft now. It would be computed again later."""
        idle = next((id for id in self._sequences if id not in active), None)
        if idle is not None:
            self.forget([idle])
        return idle is not None

    def _launch(self, step: SchedulerOutput) -> LaunchedStep:
        work = self.batch.prepare_step(step)
        launched = self.runner.launch(work, SamplingMetadata(), None)
        for request, count in step.tokens.items():
            request.num_computed_tokens += count
        for request in work.sampled_requests:
            request.num_in_flight_tokens += 1
        return launched

    def _collect(self, launched: LaunchedStep) -> None:
        for request, token in zip(launched.work.sampled_requests, launched.tokens().tolist(), strict=False):
            request.num_in_flight_tokens -= 1
            self.batch.append(request, token)

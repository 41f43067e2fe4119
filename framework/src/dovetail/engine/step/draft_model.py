"""A smaller model that guesses ahead: the likeliest tokens, for all streams in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from dovetail.api.proposer import DraftRequest, ProposerContext
from dovetail.engine.engine_request import Request
from dovetail.engine.kv.groups import CacheGroup
from dovetail.engine.kv.manager import KVCacheManager
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.sampling.rows import SamplingRows
from dovetail.engine.sampling.wants import Wants
from dovetail.engine.step.batch import Batch
from dovetail.engine.step.runner import Launched, ModelRunner
from dovetail.engine.step.scheduler import Schedule
from dovetail.engine.step.sleep import Sleeper
from dovetail.engine.step.speculation import CachingProposer, EngineContext

LIKELIEST = SamplingParams(temperature=0, max_tokens=None)


@dataclass
class Mirror:
    """A stream as the draft model has it.

    Attributes:
        request: whose tokens are the stream's, then guesses.
        known: how many are the stream's.
    """

    request: Request
    known: int = 0

    def follow(self, tokens: Sequence[int], batch: Batch) -> None:
        """Take the stream's tokens over. Guesses that came true keep their place in the cache; the others' will be written over."""
        own = self.request
        same, stop = self.known, min(len(own.tokens), len(tokens))
        while same < stop and own.tokens[same] == tokens[same]:
            same += 1
        own.tokens[same:] = tokens[same:]
        # The newest token is computed in any case: from it comes the first guess.
        own.computed = min(own.computed, same, len(tokens) - 1)
        if own.row >= 0:
            batch.tokens[own.row, same : len(tokens)] = tokens[same:]
            batch.seen[own.row] = len(tokens)
            batch.fed[own.row] = False
        self.known = len(tokens)


class DraftModel(CachingProposer):
    """Runs the draft model beside the main one, with a KV cache of its own.

    A call computes the tokens that are new to it, and then one guess after the other; on a device that queues work, nothing waits in between. A
    prompt is computed in chunks, so that no call takes longer than a step of so many tokens would. A stream that finds no blocks, or is longer
    than this model's context, gets no guesses.
    """

    def __init__(self, config: BaseModel, context: ProposerContext) -> None:
        assert isinstance(context, EngineContext)
        assert context.draft is not None
        self.context = context
        self.runner = ModelRunner(context.draft, context.block_size)
        self.limit = context.draft.max_model_len

    @property
    def groups(self) -> list[CacheGroup]:
        return self.runner.groups

    @property
    def weight_bytes(self) -> int:
        return self.runner.weight_bytes

    def activation_bytes(self) -> int:
        runner, context = self.runner, self.context
        found = runner.activation_bytes(context.max_tokens, context.max_seqs)
        if runner.platform.graphs and not context.eager:
            found += runner.activation_bytes(context.max_seqs, context.max_seqs)
        return found

    def begin(self, counts: list[int], max_len: int) -> None:
        runner, context = self.runner, self.context
        self.max_len = min(self.limit, max_len)
        runner.forget_graphs()
        runner.allocate(counts)
        self.kv = KVCacheManager(runner.groups, counts, context.block_size, caching=False)
        self.batch = Batch(context.max_seqs, self.max_len, context.block_size, len(runner.groups), runner.platform)
        rows = SamplingRows(context.max_seqs, runner.config.vocab_size, runner.device, runner.platform.upload)
        runner.begin(self.batch, rows, eager=context.eager, overlapped=True, max_len=self.max_len)
        self.sleeper = Sleeper(runner, counts)
        self._mirrors: dict[str, Mirror] = {}

    def sleep(self, level: int) -> None:
        self.forget(list(self._mirrors))
        self.sleeper.sleep(level)

    def wake_up(self, tags: list[str] | None) -> None:
        self.sleeper.wake_up(tags)

    def forget(self, ids: Iterable[str]) -> None:
        for id in ids:
            if mirror := self._mirrors.pop(id, None):
                self.kv.release(mirror.request)
                self.batch.remove(mirror.request)

    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        active = {s.id for s in sequences}
        mirrors = {s.id: self._mirror(s, active) for s in sequences if len(s.tokens) + s.most <= self.max_len}
        step, ready = self._catch_up([(mirrors[s.id], s.most) for s in sequences if s.id in mirrors], active)
        steps = [self._launch(step)] if step.tokens else []
        steps += [
            self._launch(Schedule({r: 1 for r, most in ready.items() if most > done}))
            for done in range(1, max(ready.values(), default=0))
        ]
        for launched in steps:
            self._collect(launched)
        return [
            mirrors[s.id].tokens[len(s.tokens) :] if s.id in mirrors and mirrors[s.id] in ready else []
            for s in sequences
        ]

    def _catch_up(self, asked: list[tuple[Request, int]], active: set[str]) -> tuple[Schedule, dict[Request, int]]:
        """A step that computes what is new of each request, and so its first guess; those that it finishes, and how many guesses they want."""
        step, ready = Schedule(), {}
        budget = self.context.max_tokens
        # Those that lack little first: a long prompt must not keep the others waiting.
        for request, most in sorted(asked, key=lambda pair: pair[0].pending):
            count = min(request.pending, budget)
            whole = count == request.pending
            # The last guess is not computed, unless it comes true.
            if count and self._make_room(request, request.computed + count + (most - 1 if whole else 0), active):
                step.tokens[request] = count
                budget -= count
                if whole:
                    ready[request] = most
        return step, ready

    def _mirror(self, sequence: DraftRequest, active: set[str]) -> Request:
        mirror = self._mirrors.get(sequence.id)
        if mirror is None:
            if len(self._mirrors) == self.context.max_seqs:
                self._forget_one(active)  # there are no more rows, and some belong to streams that pause
            request = Request(sequence.id, [], LIKELIEST, prompt_len=0, max_len=self.max_len, eos_ids=frozenset())
            self.kv.admit(request, self.kv.find(request))
            mirror = self._mirrors[sequence.id] = Mirror(request)
        mirror.follow(sequence.tokens, self.batch)
        return mirror.request

    def _make_room(self, request: Request, tokens: int, active: set[str]) -> bool:
        while not self.kv.grow(request, tokens):
            if not self._forget_one(active):
                return False
        return True

    def _forget_one(self, active: set[str]) -> bool:
        """Give up what is kept for a stream that is not to be guessed now; it would be computed anew."""
        idle = next((id for id in self._mirrors if id not in active), None)
        if idle is not None:
            self.forget([idle])
        return idle is not None

    def _launch(self, step: Schedule) -> Launched:
        work = self.batch.begin(step)
        launched = self.runner.launch(work, Wants(), None)
        for request, count in step.tokens.items():
            request.computed += count
        for request in work.sampled:
            request.unseen += 1
        return launched

    def _collect(self, launched: Launched) -> None:
        for request, token in zip(launched.work.sampled, launched.tokens().tolist(), strict=False):
            request.unseen -= 1
            self.batch.append(request, token)

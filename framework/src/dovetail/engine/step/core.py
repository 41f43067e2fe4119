"""The engine proper: requests in, tokens out, one step at a time. It knows no text and no clients."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable
from functools import partial

import torch

from dovetail.api.errors import RequestError, ResolutionError
from dovetail.engine.adapters.lora_request import AdapterSource
from dovetail.engine.args import EngineArgs
from dovetail.engine.engine_request import Request
from dovetail.engine.kv.groups import plan_blocks, tokens_that_fit
from dovetail.engine.kv.manager import KVCacheManager
from dovetail.engine.messages import EngineInfo, EngineStats, NewRequest, Overview, State, StepTokens, TokenOutput
from dovetail.engine.request.checks import Limits, check_choice, check_request, end_of_sequence_ids
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.request.pooling_params import PoolingParams, check_generates, check_pooling, settled
from dovetail.engine.sampling.edits import Edits, host_edits
from dovetail.engine.sampling.rows import SamplingRows
from dovetail.engine.sampling.wants import asks_of, wants_of
from dovetail.engine.step.admission import Needs
from dovetail.engine.step.batch import Batch, Work
from dovetail.engine.step.collect import Collector
from dovetail.engine.step.memory import Budget, gib
from dovetail.engine.step.overview import cache_facts, overview
from dovetail.engine.step.pace import Pace
from dovetail.engine.step.runner import Launched, ModelRunner
from dovetail.engine.step.scheduler import Schedule, Scheduler
from dovetail.engine.step.sleep import Sleeper, check_level
from dovetail.engine.step.speculation import Speculation
from dovetail.kernel.plan import Plan
from dovetail.nn.loading import Progress

WARM_UP = SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)


class EngineCore:
    """Schedules, runs and samples.

    Where the device works by itself (:attr:`dovetail.nn.Platform.queues`), steps overlap: step N + 1 is scheduled and its inputs are prepared while N
    computes, and a token that was sampled in N goes into N + 1 without having visited the host.

    Args:
        plan: what to run.
        args: the sizes.
        progress: of loading.
    """

    def __init__(self, plan: Plan, args: EngineArgs, progress: Progress | None = None) -> None:
        torch.manual_seed(args.seed)
        self.plan = plan
        self.args = args
        # Each step computes at least one token of every stream, so more streams than that could only starve each other.
        self.max_seqs = min(args.max_num_seqs, args.max_num_batched_tokens)
        self.runner = ModelRunner(
            plan,
            args.block_size,
            max_loras=args.max_loras if args.enable_lora else 0,
            max_lora_rank=args.max_lora_rank,
            progress=progress,
        )
        self.vocab_size = self.runner.config.vocab_size
        self.speculation = Speculation.of(
            plan,
            self.vocab_size,
            max_seqs=self.max_seqs,
            max_tokens=args.max_num_batched_tokens,
            block_size=args.block_size,
            eager=args.enforce_eager,
        )
        self.overlapped = self.runner.platform.queues if args.async_scheduling is None else args.async_scheduling
        if self.speculation is not None:  # a guess begins behind the newest token, which must be known
            self.overlapped = False
        self.eos_ids = end_of_sequence_ids(plan)
        self.counts, self.budget = self._plan_memory(plan)
        limit = self.budget.tokens if self.budget.tokens is not None else plan.max_model_len
        self.max_model_len = min(plan.max_model_len, limit)
        # Asking for more than fits is an error only if somebody asked; otherwise the context shrinks to what memory holds.
        if args.max_model_len is not None and args.max_model_len > limit:
            raise ResolutionError(
                f"--max-model-len {args.max_model_len} was asked for, but the KV cache holds {limit} tokens ({self.budget})",
                "lower it, or give the cache more memory",
            )
        self.limits = Limits(self.max_model_len, self.vocab_size, args.max_logprobs)
        self.needs = Needs(plan, self.runner, args.max_cpu_loras)
        self.requests: dict[str, Request] = {}
        self._draws = random.Random(args.seed)
        self._arrivals = 0
        self._begin()
        self.info = EngineInfo(
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_seqs,
            budget=str(self.budget),
            kernels=dict(self.runner.reader.used),
            device=self.runner.platform.describe(),
        )

    def _plan_memory(self, plan: Plan) -> tuple[list[int], Budget]:
        args, runner = self.args, self.runner
        activations = runner.activation_bytes(args.max_num_batched_tokens, self.max_seqs)
        graphs = 0
        if runner.platform.graphs and not args.enforce_eager:
            # All captured steps share the memory that the largest of them needs.
            graphs = runner.activation_bytes(self.max_seqs, self.max_seqs)
        groups, weights = [*runner.groups], runner.weight_bytes
        if self.speculation is not None:
            groups += self.speculation.groups
            weights += self.speculation.weight_bytes
            activations += self.speculation.activation_bytes()
        memory = runner.platform.memory()
        room = runner.platform.kv_cache_bytes(args.gpu_memory_utilization, activations + graphs)
        counts = plan_blocks(
            groups,
            room,
            block_size=args.block_size,
            max_seqs=self.max_seqs,
            max_len=plan.max_model_len,
            max_tokens=args.max_num_batched_tokens,
        )
        if groups and not any(counts):
            least = 2 * sum(g.block_bytes for g in groups)
            raise ResolutionError(
                f"wanted memory for at least 2 blocks of the KV cache ({least / 2**20:.1f} MiB), found {room / 2**20:.1f} MiB "
                f"(weights {gib(weights)}, activations {gib(activations)}, graphs {gib(graphs)}, "
                f"{gib(memory.free)} of {gib(memory.total)} free)",
                "give the cache more memory, lower --max-num-batched-tokens, --max-num-seqs or --block-size, or take a smaller model",
            )
        cache = sum(n * g.block_bytes for n, g in zip(counts, groups, strict=True))
        tokens = tokens_that_fit(
            runner.groups,
            counts[: len(runner.groups)],
            block_size=args.block_size,
        )
        return counts, Budget(memory.total, memory.free, weights, activations, graphs, cache, tokens)

    def _begin(self) -> None:
        """Make everything that lives and dies with the KV cache."""
        args, runner = self.args, self.runner
        counts = self.counts[: len(runner.groups)]
        runner.allocate(counts)
        if self.speculation is not None:
            self.speculation.begin(self.counts[len(runner.groups) :], self.max_model_len)
        self.kv = KVCacheManager(runner.groups, counts, args.block_size, args.enable_prefix_caching)
        self.pace = Pace(args.max_decode_slowdown)
        self.scheduler = Scheduler(
            self.max_seqs, args.max_num_batched_tokens, self.kv, args.scheduling_policy, self.pace, self.needs
        )
        self.batch = Batch(self.max_seqs, self.max_model_len, args.block_size, len(runner.groups), runner.platform)
        self.sampling = SamplingRows(
            self.max_seqs, self.vocab_size, runner.device, runner.platform.upload, sorts=runner.platform.sorts
        )
        runner.begin(
            self.batch,
            self.sampling,
            eager=args.enforce_eager,
            overlapped=self.overlapped,
            max_len=self.max_model_len,
        )
        self.collector = Collector(self.batch)
        self.sleeper = Sleeper(runner, counts)
        self._flying: Launched | None = None
        self._held: list[TokenOutput] = []  # given by steps that ended outside of step()
        self._since = 0.0
        self._warm_up()

    def _warm_up(self) -> None:
        """Run one short request through everything, so that the first user does not wait for libraries to set themselves up."""
        pooling = None if "generate" in self.plan.tasks else PoolingParams()
        prompt = [0] * min(8, self.max_model_len - 1)
        self.add(NewRequest(f"warm-up-{os.getpid()}", prompt, WARM_UP, pooling=pooling))
        while not self.idle:
            self.step()
        self.kv.forget()
        self.kv.queries = self.kv.hits = 0
        self.pace.forget()
        self.collector.prompt_tokens = self.collector.output_tokens = 0
        self.collector.drafts = self.collector.drafted = self.collector.accepted = 0
        self.collector.steps = StepTokens()

    # -- requests

    @property
    def idle(self) -> bool:
        return self.scheduler.idle and self._flying is None

    @property
    def stalled(self) -> bool:
        """Whether the last step found nothing to compute although requests wait: for a grammar to compile, say."""
        return self._flying is None and not self.scheduler.running

    def add(self, new: NewRequest) -> None:
        """Queue a request.

        Raises:
            RequestError: the prompt or a parameter does not fit the model, or what it asks for is not there.
        """
        params = new.params
        pooling = None if new.pooling is None else settled(new.pooling, self.plan)
        limit = self.max_model_len
        if pooling is not None:
            check_pooling(new.prompt_token_ids, pooling, self.limits, self.runner.config.hidden_size)
            limit = len(new.prompt_token_ids) + 1  # the vector takes the place of a token
        else:
            check_generates(self.plan)
            check_request(new.prompt_token_ids, params, self.limits, new.bad_words)
            if params.max_tokens is not None:
                limit = min(limit, len(new.prompt_token_ids) + params.max_tokens)
        self._arrivals += 1
        request = Request(
            id=new.id,
            tokens=list(new.prompt_token_ids),
            params=params,
            prompt_len=len(new.prompt_token_ids),
            max_len=limit,
            eos_ids=self.eos_ids,
            seed=self._draws.getrandbits(63) if params.seed is None else params.seed,
            priority=new.priority,
            arrival=self._arrivals,
            bad_words=new.bad_words,
            pooling=pooling,
        )
        check_choice(params, new.bad_words, request.end_ids)
        self.needs.attach(request, new)
        self.requests[new.id] = request
        self.scheduler.add(request)

    def abort(self, ids: Iterable[str]) -> None:
        """Forget requests, wherever they are; ids that are not known any more are fine."""
        for request_id in ids:
            if request := self.requests.get(request_id):
                self._close(request)

    def _close(self, request: Request) -> None:
        del self.requests[request.id]
        if self.speculation is not None:
            self.speculation.forget(request)
        self.scheduler.remove(request)
        self._leave_batch(request)

    def _leave_batch(self, request: Request) -> None:
        if request.row >= 0:
            self.sampling.clear(request.row)
            self.batch.remove(request)

    def _is_open(self, request: Request) -> bool:
        return self.requests.get(request.id) is request

    def _refuse(self, request: Request, error: RequestError) -> TokenOutput:
        self._close(request)
        return TokenOutput(id=request.id, token_ids=[], finish_reason="error", error=str(error), refused=True)

    # -- steps

    def step(self) -> list[TokenOutput]:
        """Begin a step and finish the one before it (or this one, where steps do not overlap); what each request got."""
        outputs, self._held = self._held, []
        if self.is_sleeping:
            return outputs
        if self._flying is None:  # otherwise the device has been at work since the last step landed
            self._since = time.perf_counter()
        for request, error in self.needs.failed():
            if self._is_open(request):
                outputs.append(self._refuse(request, error))
        if self.speculation is not None:
            self.speculation.draft(self.scheduler.running)
        try:
            launched = self._launch(self.scheduler.schedule(), outputs)
        except BaseException:  # Ctrl+C among them, after which an LLM is used again
            self.kv.forget()  # blocks are named before they are computed, and these never will be
            raise
        outputs += self._land()
        self._flying = launched
        if not self.overlapped:
            outputs += self._land()
        return outputs

    def _launch(self, schedule: Schedule, outputs: list[TokenOutput]) -> Launched | None:
        for request in schedule.preempted:
            self._leave_batch(request)
        if not schedule.tokens:
            return None
        new = [r for r in schedule.tokens if r.row < 0]
        work = self.batch.begin(schedule)
        for request in new:
            self.sampling.set(request.row, request)
        lines = [r for r, draft in zip(work.sampled, work.drafts, strict=True) for _ in range(len(draft) + 1)]
        drafted = len(lines) > len(work.sampled)
        edited = drafted or any(r.grammar is not None or asks_of(r).edits for r in work.sampled)
        edits = partial(self._edits, work, outputs) if edited else None
        launched = self.runner.launch(work, wants_of(lines), edits)
        for request, count in zip(work.requests, work.counts.tolist(), strict=True):
            request.computed += count
        for request in work.sampled:
            request.unseen += 1
        for part in launched.pooled:
            for request in part.requests:
                request.unseen += 1
        return launched

    def _edits(self, work: Work, outputs: list[TokenOutput]) -> Edits | None:
        """What the host decides about single logits; where that depends on tokens still on their way, they are waited for first."""
        if any(r.needs_values for r in work.sampled):
            outputs += self._land()
        entries = [
            (request, draft[:place])
            for request, draft in zip(work.sampled, work.drafts, strict=True)
            for place in range(len(draft) + 1)
        ]
        masks = self.needs.masks(work)
        upload = self.runner.platform.upload
        return host_edits(entries, self.vocab_size, upload, masks, self.needs.must_end(masks))

    def _land(self) -> list[TokenOutput]:
        """Wait for the step that is on its way, and hand out what it gave."""
        launched, self._flying = self._flying, None
        if launched is None:
            return []
        outputs = []
        for request, output in self.collector.collect(launched):
            if not self._is_open(request):  # it was aborted, or has ended, meanwhile
                continue
            self.needs.follow(request, output)
            if output.finish_reason is not None:
                self._close(request)
            outputs.append(output)
        now = time.perf_counter()
        work = launched.work
        self.pace.observe(work.streams, work.prefill, now - self._since)
        self._since = now
        return outputs

    # -- sleep

    @property
    def is_sleeping(self) -> bool:
        return bool(self.sleeper.asleep)

    def sleep(self, level: int = 1) -> None:
        """Give memory back. Requests that run lose their place in the cache, wait, and go on after :meth:`wake_up`; new ones queue.

        Args:
            level: 1 frees the KV cache and moves the weights to the host; 2 frees the weights, which are read again later.

        Raises:
            RequestError: there is no such level.
        """
        check_level(level)
        self._held += self._land()
        for request in self.scheduler.preempt_all():
            self._leave_batch(request)
        self.kv.forget()
        if self.speculation is not None:
            self.speculation.sleep(level)
        self.sleeper.sleep(level)

    def wake_up(self, tags: list[str] | None = None) -> bool:
        """Take the memory again.

        Args:
            tags: ``weights``, ``kv_cache``, or both; None for all that sleeps.

        Returns:
            Whether something still sleeps.

        Raises:
            RequestError: a tag is unknown.
        """
        if self.speculation is not None:
            self.speculation.wake_up(tags)
        if self.sleeper.wake_up(tags):
            self.needs.adapters.moved(self.runner.ctx)
        return self.is_sleeping

    # -- what else can be asked of it

    @property
    def stats(self) -> EngineStats:
        collector = self.collector
        return EngineStats(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            kv_usage=self.kv.usage,
            prefix_queries=self.kv.queries,
            prefix_hits=self.kv.hits,
            preemptions=self.scheduler.preemptions,
            prompt_tokens=collector.prompt_tokens,
            output_tokens=collector.output_tokens,
            drafted=collector.drafted,
            accepted=collector.accepted,
        )

    @property
    def state(self) -> State:
        return State(self.needs.adapters.origins, self.is_sleeping)

    def overview(self) -> Overview:
        """What it is doing at the moment, and for which requests."""
        running, waiting = self.scheduler.running, self.scheduler.waiting
        found = overview(self.stats, running, waiting)
        found.steps, found.drafts = self.collector.steps, self.collector.drafts
        run = self.needs.adapters.used_by(running)
        found.running_adapters = sorted(run)
        found.waiting_adapters = sorted(self.needs.adapters.used_by(waiting) - run)
        found.max_loras = self.args.max_loras if self.args.enable_lora else 0
        found.cache = cache_facts(self.args, self.needs.plan.kv_dtype, self.counts)
        return found

    def reset_prefix_cache(self) -> bool:
        """Forget what was computed for others; requests that run go on. Always succeeds."""
        self.kv.forget()
        return True

    def add_adapter(self, source: str) -> None:
        """Load a LoRA adapter: the JSON of an :class:`~dovetail.engine.adapters.lora_request.AdapterSource`.

        Raises:
            RequestError: it does not fit the model, or its name is taken.
        """
        self.needs.adapters.add(AdapterSource.model_validate_json(source))

    def remove_adapter(self, name: str) -> None:
        """Unload a LoRA adapter; requests that have it finish with it.

        Raises:
            RequestError: there is none of that name.
        """
        self.needs.adapters.remove(name)

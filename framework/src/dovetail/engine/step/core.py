"""The engine core: schedules requests, runs the model and samples, one step at a time. It works on token ids only."""

from __future__ import annotations

import copy
import os
import random
import time
from collections.abc import Iterable
from functools import partial

import torch

from dovetail.api.errors import DovetailError, RequestError, ResolutionError
from dovetail.engine.adapters.lora_request import AdapterSource
from dovetail.engine.args import EngineArgs
from dovetail.engine.engine_request import Request
from dovetail.engine.kv.groups import max_tokens_that_fit, plan_num_blocks
from dovetail.engine.kv.manager import KVCacheManager
from dovetail.engine.messages import (
    EngineInfo,
    EngineStats,
    NewRequest,
    Overview,
    State,
    StepSizeHistogram,
    TokenOutput,
)
from dovetail.engine.request.checks import ModelLimits, check_allowed_tokens, check_request, find_eos_token_ids
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.request.pooling_params import (
    PoolingParams,
    check_can_generate,
    check_pooling,
    resolve_pooling_params,
)
from dovetail.engine.sampling.edits import LogitEdits, build_logit_edits
from dovetail.engine.sampling.greedy import likeliest
from dovetail.engine.sampling.metadata import build_sampling_metadata, get_sampling_flags
from dovetail.engine.sampling.tables import SamplingTables
from dovetail.engine.step.drafting import Speculation
from dovetail.engine.step.input_batch import InputBatch, StepWork
from dovetail.engine.step.memory import MemoryBudget, format_gib
from dovetail.engine.step.output_checks import checked_outputs
from dovetail.engine.step.output_collector import OutputCollector
from dovetail.engine.step.overview import describe_cache, overview
from dovetail.engine.step.prefill_limiter import PrefillLimiter
from dovetail.engine.step.resources import RequestResources
from dovetail.engine.step.runner import LaunchedStep, ModelRunner
from dovetail.engine.step.scheduler import Scheduler, SchedulerOutput
from dovetail.engine.step.sleep import Sleeper, check_level
from dovetail.engine.text.bad_words import NO_BAD_WORDS, BadWords
from dovetail.kernel.plan import Plan
from dovetail.nn.loading import Progress

WARM_UP = SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)
STEP_TOKENS = 2048
"""Tokens computed in one step, if the options do not say."""


class EngineCore:
    """Schedules, runs the model, and samples.

    If the device works asynchronously (:attr:`dovetail.nn.Platform.asynchronous`), steps overlap: step N + 1 is
    scheduled and its inputs are prepared while N computes. A token that was sampled in N is an input of N + 1 without
    passing through the host.

    Args:
        plan: what to run.
        args: the engine's options.
        progress: called while weights load.
    """

    def __init__(self, plan: Plan, args: EngineArgs, progress: Progress | None = None) -> None:
        torch.manual_seed(args.seed)
        self.plan = plan
        self.args = args
        self.max_tokens = find_max_step_tokens(plan, args)
        # Each step computes at least one token of every stream, so more streams than that could only starve each other.
        self.max_seqs = min(args.max_num_seqs, self.max_tokens)
        self.runner = ModelRunner(
            plan,
            args.block_size,
            max_loras=args.max_loras if args.enable_lora else 0,
            max_lora_rank=args.max_lora_rank,
            progress=progress,
        )
        self.vocab_size = self.runner.config.vocab_size
        self.speculation = Speculation.from_plan(
            plan,
            self.vocab_size,
            max_seqs=self.max_seqs,
            max_tokens=self.max_tokens,
            block_size=args.block_size,
            eager=args.enforce_eager,
        )
        self.async_scheduling = (
            self.runner.platform.asynchronous if args.async_scheduling is None else args.async_scheduling
        )
        if self.speculation is not None:  # a draft follows the newest token, which must be known
            self.async_scheduling = False
        self.eos_ids = find_eos_token_ids(plan)
        self.num_blocks, self.memory_budget = self._plan_memory(plan)
        limit = self.memory_budget.tokens if self.memory_budget.tokens is not None else plan.max_model_len
        self.max_model_len = min(plan.max_model_len, limit)
        # If the user set a length that does not fit, it is an error; otherwise the context is reduced to fit memory.
        if args.max_model_len is not None and args.max_model_len > limit:
            raise ResolutionError(
                f"--max-model-len {args.max_model_len} was asked for, but the KV cache holds {limit} tokens ({self.memory_budget})",
                "lower it, or give the cache more memory",
            )
        self.limits = ModelLimits(self.max_model_len, self.vocab_size, args.max_logprobs, args.logprobs_mode)
        self.resources = RequestResources(plan, self.runner, args.max_cpu_loras)
        self.requests: dict[str, Request] = {}
        self._seed_rng = random.Random(args.seed)
        self._num_arrivals = 0
        self._init_cache()
        self.info = EngineInfo(
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_seqs,
            budget=str(self.memory_budget),
            kernels=dict(self.runner.reader.used),
            device=self.runner.describe_device(),
        )

    def _plan_memory(self, plan: Plan) -> tuple[list[int], MemoryBudget]:
        args, runner = self.args, self.runner
        activations = runner.activation_bytes(self.max_tokens, self.max_seqs)
        graphs = 0
        if runner.platform.supports_graphs and not args.enforce_eager:
            # All captured steps share the memory that the largest of them needs.
            graphs = runner.activation_bytes(self.max_seqs, self.max_seqs, images=False)
        groups, weights = [*runner.groups], runner.weight_bytes
        if self.speculation is not None:
            groups += self.speculation.groups
            weights += self.speculation.weight_bytes
            activations += self.speculation.activation_bytes()
        memory = runner.device_memory()
        if args.kv_cache_memory_bytes is not None:
            room = args.kv_cache_memory_bytes
        else:
            room = runner.cache_room(args.gpu_memory_utilization, activations + graphs)
        counts = plan_num_blocks(
            groups,
            room,
            block_size=args.block_size,
            max_seqs=self.max_seqs,
            max_len=plan.max_model_len,
            max_tokens=self.max_tokens,
            capped=args.kv_cache_memory_bytes is None,
            num_blocks=args.num_gpu_blocks_override,
        )
        if groups and not any(counts):
            least = 2 * sum(g.block_bytes for g in groups)
            raise ResolutionError(
                f"wanted memory for at least 2 blocks of the KV cache ({least / 2**20:.1f} MiB), found {room / 2**20:.1f} MiB "
                f"(weights {format_gib(weights)}, activations {format_gib(activations)}, graphs {format_gib(graphs)}, "
                f"{format_gib(memory.free)} of {format_gib(memory.total)} free)",
                "give the cache more memory, lower --max-num-batched-tokens, --max-num-seqs or --block-size, or take a smaller model",
            )
        cache = sum(n * g.block_bytes for n, g in zip(counts, groups, strict=True))
        explicit = next((n for n in ("num_gpu_blocks_override", "kv_cache_memory_bytes") if getattr(args, n)), None)
        if explicit is not None and cache > memory.free:
            raise ResolutionError(
                f"--{explicit.replace('_', '-')} {getattr(args, explicit)} asks for a KV cache of {format_gib(cache)}, "
                f"and {format_gib(memory.free)} of {format_gib(memory.total)} are free beside the weights",
                "lower it, or leave it out",
            )
        tokens = max_tokens_that_fit(
            runner.groups,
            counts[: len(runner.groups)],
            block_size=args.block_size,
        )
        return counts, MemoryBudget(memory.total, memory.free, weights, activations, graphs, cache, tokens)

    def _init_cache(self) -> None:
        """Create everything that depends on the KV cache."""
        plan, args, runner = self.plan, self.args, self.runner
        counts = self.num_blocks[: len(runner.groups)]
        runner.allocate(counts)
        if self.speculation is not None:
            self.speculation.begin(self.num_blocks[len(runner.groups) :], self.max_model_len)
        self.kv = KVCacheManager(runner.groups, counts, args.block_size, args.enable_prefix_caching)
        self.prefill_limiter = PrefillLimiter(args.max_decode_slowdown)
        self.scheduler = Scheduler(
            self.max_seqs,
            self.max_tokens,
            self.kv,
            args.scheduling_policy,
            self.prefill_limiter,
            self.resources,
            whole_prompts=plan.computes_whole_prompts,
        )
        self.batch = InputBatch(self.max_seqs, self.max_model_len, args.block_size, len(runner.groups), runner.platform)
        self.sampling = SamplingTables(
            self.max_seqs,
            self.vocab_size,
            runner.device,
            runner.platform.upload,
            sorts=runner.platform.sorts_fast,
            logprobs_mode=args.logprobs_mode,
            find_likeliest=runner.ctx.ops.claimed.get("likeliest", likeliest),
        )
        runner.bind_batch(
            self.batch,
            self.sampling,
            eager=args.enforce_eager,
            async_scheduling=self.async_scheduling,
            max_len=self.max_model_len,
        )
        self.collector = OutputCollector(self.batch)
        self.sleeper = Sleeper(runner, counts)
        self._in_flight: LaunchedStep | None = None
        self._pending_outputs: list[TokenOutput] = []  # given by steps that ended outside of step()
        self._step_start = 0.0
        self._warm_up()

    def _warm_up(self) -> None:
        """Run one short request, so that the first user does not wait for libraries to initialise, and a part that
        computes something else than was agreed is named at once.
        """
        pooling = None if "generate" in self.plan.tasks else PoolingParams()
        prompt = [0] * min(8, self.max_model_len - 1)
        self.add(NewRequest(f"warm-up-{os.getpid()}", prompt, WARM_UP, pooling=pooling))
        with checked_outputs(self.runner.model, self.runner.ctx, self.plan):
            self.step()
        while not self.idle:
            self.step()
        self.kv.reset_prefix_cache()
        self.kv.queries = self.kv.hits = 0
        self.prefill_limiter.forget()
        self.collector.prompt_tokens = self.collector.output_tokens = 0
        self.collector.num_drafts = self.collector.num_draft_tokens = self.collector.num_accepted_tokens = 0
        self.collector.steps = StepSizeHistogram()

    # -- requests

    @property
    def idle(self) -> bool:
        return self.scheduler.idle and self._in_flight is None

    @property
    def stalled(self) -> bool:
        """Whether the last step had nothing to compute although requests wait, for example for a grammar to compile."""
        return self._in_flight is None and not self.scheduler.running

    def add(self, new: NewRequest) -> None:
        """Queue a request: all of its sequences, or none.

        Raises:
            RequestError: the prompt or a parameter does not fit the model, or the adapter or grammar is not available.
        """
        params = new.params
        pooling = None if new.pooling is None else resolve_pooling_params(new.pooling, self.plan)
        limit = self.max_model_len
        if pooling is not None:
            check_pooling(new.prompt_token_ids, pooling, self.limits, self.runner.config.hidden_size)
            limit = len(new.prompt_token_ids) + 1  # the vector takes the place of a token
        else:
            check_can_generate(self.plan)
            check_request(new.prompt_token_ids, params, self.limits, new.bad_words)
            if params.top_k >= self.vocab_size:
                # Draws from ranked tokens and from all of them take different tokens for the same number.
                new.params = params = copy.copy(params)
                params.top_k = 0
            if params.max_tokens is not None:
                limit = min(limit, len(new.prompt_token_ids) + params.max_tokens)
        axes = None
        if new.images and self.runner.has_rope_axes:
            from dovetail.engine.step.rope_positions import find_rope_positions

            axes = find_rope_positions(len(new.prompt_token_ids), new.images)
        # What the sequences share is there once: it may be large, and they may be many.
        tokens, bad_words = list(new.prompt_token_ids), BadWords(new.bad_words) if new.bad_words else NO_BAD_WORDS
        requests: list[Request] = []
        for sequence in new.split():
            self._num_arrivals += 1
            request = Request(
                id=sequence.id,
                tokens=tokens,
                params=sequence.params,
                num_prompt_tokens=len(tokens),
                max_len=limit,
                eos_ids=self.eos_ids,
                seed=self._seed_rng.getrandbits(63) if sequence.params.seed is None else sequence.params.seed,
                priority=new.priority,
                arrival_index=self._num_arrivals,
                bad_words=bad_words,
                pooling_params=pooling,
                images=new.images or (),
            )
            if axes is not None:
                request.rope_positions, request.rope_offset = axes
            if requests:
                request.end_token_ids = requests[0].end_token_ids
            else:
                check_allowed_tokens(params, new.bad_words, request.end_token_ids)
            self.resources.attach(request, new)
            if not requests:
                # What its own data could break in a step is tried here, where it ends this request alone.
                get_sampling_flags(request)
                self.sampling.check(request)
            requests.append(request)
        for request in requests:
            self.requests[request.id] = request
            self.scheduler.add(request)

    def abort(self, ids: Iterable[str]) -> None:
        """Abort requests in any state. Unknown ids are ignored."""
        for request_id in ids:
            if request := self.requests.get(request_id):
                self._remove_request(request)

    def _remove_request(self, request: Request) -> None:
        del self.requests[request.id]
        if self.speculation is not None:
            self.speculation.forget(request)
        self.scheduler.remove(request)
        self._remove_from_batch(request)

    def _remove_from_batch(self, request: Request) -> None:
        if request.row >= 0:
            self.sampling.clear(request.row)
            self.batch.remove(request)

    def _is_active(self, request: Request) -> bool:
        return self.requests.get(request.id) is request

    def _reject(self, request: Request, error: DovetailError) -> TokenOutput:
        self._remove_request(request)
        own = isinstance(error, RequestError)
        return TokenOutput(id=request.id, token_ids=[], finish_reason="error", error=str(error), is_request_error=own)

    # -- steps

    def step(self) -> list[TokenOutput]:
        """Launch a step and collect the previous one (without async scheduling: the same one). Returns the new
        tokens of each request.
        """
        outputs, self._pending_outputs = self._pending_outputs, []
        if self.is_sleeping:
            return outputs
        if self._in_flight is None:  # otherwise the device has been at work since the last step landed
            self._step_start = time.perf_counter()
        for request, error in self.resources.pop_failed():
            if self._is_active(request):
                outputs.append(self._reject(request, error))
        if self.speculation is not None:
            self.speculation.draft(self.scheduler.running)
        try:
            launched = self._launch(self.scheduler.schedule(), outputs)
        except BaseException:  # Ctrl+C among them, after which an LLM is used again
            self.kv.reset_prefix_cache()  # blocks are named before they are computed, and these never will be
            raise
        outputs += self._finish_step()
        self._in_flight = launched
        if not self.async_scheduling:
            outputs += self._finish_step()
        return outputs

    def _launch(self, schedule: SchedulerOutput, outputs: list[TokenOutput]) -> LaunchedStep | None:
        for request in schedule.preempted:
            self._remove_from_batch(request)
        if not schedule.tokens:
            return None
        new = [r for r in schedule.tokens if r.row < 0]
        for request in new:
            if request.num_output_tokens == 0:
                request.own_tokens()
        work = self.batch.prepare_step(schedule)
        for request in new:
            self.sampling.set(request.row, request)
        lines = [r for r, draft in zip(work.sampled_requests, work.drafts, strict=True) for _ in range(len(draft) + 1)]
        drafted = len(lines) > len(work.sampled_requests)
        edited = drafted or any(r.grammar is not None or get_sampling_flags(r).edits for r in work.sampled_requests)
        edits = partial(self._build_edits, work, outputs) if edited else None
        launched = self.runner.launch(work, build_sampling_metadata(lines), edits)
        for request, count in zip(work.requests, work.num_scheduled_tokens.tolist(), strict=True):
            request.num_computed_tokens += count
        for request in work.sampled_requests:
            request.num_in_flight_tokens += 1
        for part in launched.pooled:
            for request in part.requests:
                request.num_in_flight_tokens += 1
        return launched

    def _build_edits(self, work: StepWork, outputs: list[TokenOutput]) -> LogitEdits | None:
        """Build the logit changes that the host decides. Waits for the step in flight if they depend on its tokens."""
        if any(r.needs_host_tokens for r in work.sampled_requests):
            outputs += self._finish_step()
        entries = [
            (request, draft[:place])
            for request, draft in zip(work.sampled_requests, work.drafts, strict=True)
            for place in range(len(draft) + 1)
        ]
        masks = self.resources.build_masks(work)
        upload = self.runner.platform.upload
        return build_logit_edits(entries, self.vocab_size, upload, masks, self.resources.find_rows_that_must_end(masks))

    def _finish_step(self) -> list[TokenOutput]:
        """Wait for the step in flight and return its outputs."""
        launched, self._in_flight = self._in_flight, None
        if launched is None:
            return []
        outputs = []
        for request, output in self.collector.collect(launched):
            if not self._is_active(request):  # it was aborted, or has ended, meanwhile
                continue
            self.resources.advance_grammar(request, output)
            if output.finish_reason is not None:
                self._remove_request(request)
            outputs.append(output)
        now = time.perf_counter()
        work = launched.work
        self.prefill_limiter.observe(work.num_decodes, work.num_prefill_tokens, now - self._step_start)
        self._step_start = now
        return outputs

    # -- sleep

    @property
    def is_sleeping(self) -> bool:
        return bool(self.sleeper.asleep)

    def sleep(self, level: int = 1) -> None:
        """Free the device's memory. Running requests are preempted and continue after :meth:`wake_up`; new ones are
        queued.

        Args:
            level: 1 frees the KV cache and moves the weights to the host; 2 frees the weights, which are read again
                later.

        Raises:
            RequestError: there is no such level.
        """
        check_level(level)
        self._pending_outputs += self._finish_step()
        for request in self.scheduler.preempt_all():
            self._remove_from_batch(request)
        self.kv.reset_prefix_cache()
        self.runner.forget_images()
        if self.speculation is not None:
            self.speculation.sleep(level)
        self.sleeper.sleep(level)

    def wake_up(self, tags: list[str] | None = None) -> bool:
        """Allocate the memory again.

        Args:
            tags: ``weights``, ``kv_cache``, or both; None for all that sleeps.

        Returns:
            Whether a part still sleeps.

        Raises:
            RequestError: a tag is unknown.
        """
        if self.speculation is not None:
            self.speculation.wake_up(tags)
        if self.sleeper.wake_up(tags):
            self.resources.adapters.rebind(self.runner.ctx)
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
            num_draft_tokens=collector.num_draft_tokens,
            num_accepted_tokens=collector.num_accepted_tokens,
        )

    @property
    def state(self) -> State:
        return State(self.resources.adapters.origins, self.is_sleeping)

    def overview(self) -> Overview:
        """A snapshot of the engine and its requests."""
        running, waiting = self.scheduler.running, self.scheduler.waiting
        found = overview(self.stats, running, waiting)
        found.steps, found.num_drafts = self.collector.steps, self.collector.num_drafts
        run = self.resources.adapters.names_used_by(running)
        found.running_adapters = sorted(run)
        found.waiting_adapters = sorted(self.resources.adapters.names_used_by(waiting) - run)
        found.max_loras = self.args.max_loras if self.args.enable_lora else 0
        found.cache = describe_cache(self.args, self.resources.plan.kv_dtype, self.num_blocks)
        return found

    def reset_prefix_cache(self) -> bool:
        """Empty the prefix cache. Running requests continue. Always succeeds."""
        self.kv.reset_prefix_cache()
        self.runner.forget_images()  # what changes the weights asks for this, too
        return True

    def add_adapter(self, source: str) -> None:
        """Load a LoRA adapter from the JSON of an :class:`~dovetail.engine.adapters.lora_request.AdapterSource`.

        Raises:
            RequestError: it does not fit the model, or its name is in use.
        """
        self.resources.adapters.add(AdapterSource.model_validate_json(source))

    def remove_adapter(self, name: str) -> None:
        """Unload a LoRA adapter. Its requests finish with it.

        Raises:
            RequestError: there is none of that name.
        """
        self.resources.adapters.remove(name)


def find_max_step_tokens(plan: Plan, args: EngineArgs) -> int:
    """Tokens computed in one step: ``--max-num-batched-tokens``, of which the default is raised to the longest prompt
    for a model that computes prompts whole.

    Raises:
        ResolutionError: it was set, and is too small for that.
    """
    most = args.max_num_batched_tokens
    if most is None:
        return max(STEP_TOKENS, plan.max_model_len) if plan.computes_whole_prompts else STEP_TOKENS
    if not plan.computes_whole_prompts or most >= plan.max_model_len:
        return most
    raise ResolutionError(
        f"--max-num-batched-tokens is {most}, and {plan.model} computes each prompt in one step, of up to {plan.max_model_len} tokens",
        "raise it to that, or lower --max-model-len",
    )

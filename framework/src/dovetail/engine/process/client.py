"""The API's side of the engine: sends requests to its process, and hands out what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Self

from dovetail.api.errors import DovetailError, EngineDeadError
from dovetail.engine import messages as m
from dovetail.engine.args import EngineArgs
from dovetail.engine.grammars.checks import check_structured
from dovetail.engine.output.pooled import Pooled
from dovetail.engine.output.processor import OutputProcessor
from dovetail.engine.process.link import EngineLink
from dovetail.engine.process.output_queue import Mailbox
from dovetail.engine.request.checks import Limits, check_request, end_of_sequence_ids
from dovetail.engine.request.defaults import sampling_defaults
from dovetail.engine.request.outputs import Delta
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.request.pooling_params import NO_SAMPLING, PoolingParams, check_pooling, settled
from dovetail.engine.setup import load_tokenizer
from dovetail.engine.text.tokenizer import Tokenizer
from dovetail.kernel.plan import Plan


class AsyncEngine(EngineLink):
    """An engine that many coroutines use at once; use :meth:`start`, which reads the tokenizer while the process starts.

    Attributes:
        max_model_len: tokens of the longest sequence, prompt and output together.
        tokenizer: the model's.
        eos_ids: tokens that end a sequence.
        default_params: sampling parameters where a request is silent; ``max_tokens`` among them is a cap.
    """

    def __init__(self, plan: Plan, args: EngineArgs, tokenizer: Tokenizer) -> None:
        super().__init__(plan, args)
        self.tokenizer = tokenizer
        self.default_params: dict[str, Any] = sampling_defaults(plan, args)
        self._config = plan.model_config_object()
        self.vocab_size: int = self._config.vocab_size
        self.eos_ids = end_of_sequence_ids(plan)
        self._processor = OutputProcessor(tokenizer)
        self._mailboxes: dict[str, Mailbox] = {}
        self._vectors: dict[str, asyncio.Future[Pooled]] = {}

    @classmethod
    async def _make(cls, plan: Plan, args: EngineArgs) -> Self:
        return cls(plan, args, await asyncio.to_thread(load_tokenizer, plan, args.chat_template))

    @property
    def max_model_len(self) -> int:
        assert self.info is not None
        return self.info.max_model_len

    @property
    def max_num_seqs(self) -> int:
        assert self.info is not None
        return self.info.max_num_seqs

    @property
    def max_num_queued_requests(self) -> int | None:
        return self.args.max_num_queued_requests

    @property
    def scheduling_policy(self) -> str:
        return self.args.scheduling_policy

    @property
    def restarting(self) -> bool:
        """Never: a process that has died is not started again by its client."""
        return False

    async def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        adapter: str | None = None,
    ) -> AsyncGenerator[list[Delta], None]:
        """Deltas as they come, until every completion has a finish reason. Leaving the iterator early aborts the request.

        Args:
            priority: lower runs first, under ``--scheduling-policy priority``.
            cache_salt: share cached prefixes only with requests of the same salt.
            adapter: the LoRA adapter to run with.

        Raises:
            RequestError: the prompt or a parameter does not fit, or the form of the output cannot be kept.
            EngineDeadError: the engine is gone, or goes while this runs.
        """
        self._check_alive()
        check_request(prompt_token_ids, params, self._limits)
        if params.structured_outputs is not None:
            await asyncio.to_thread(check_structured, params.structured_outputs, self.plan)
            self._check_alive()
        sequences = self._processor.add(
            request_id, prompt_token_ids, params, priority=priority, cache_salt=cache_salt, adapter=adapter
        )
        mailbox = self._mailboxes[request_id] = Mailbox()
        try:
            for sequence in sequences:
                self._child.send(sequence)
            left = params.n
            while left:
                deltas = await mailbox.take()
                for delta in deltas:
                    if delta.finish_reason is not None:
                        left -= 1
                yield deltas
        finally:
            del self._mailboxes[request_id]
            if (aborted := self._processor.abort(request_id)) and self.alive:
                self._child.send(m.Abort(aborted))

    async def pool(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: PoolingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        adapter: str | None = None,
    ) -> Pooled:
        """The vector of one prompt. Cancelling the task that waits for it aborts the request.

        Args:
            priority, cache_salt, adapter: see :meth:`generate`.

        Raises:
            RequestError: the prompt does not fit, or the model has no such vectors.
            EngineDeadError: the engine is gone, or goes while this runs.
        """
        self._check_alive()
        pooling = settled(params, self.plan)
        check_pooling(prompt_token_ids, pooling, self._limits, self._config.hidden_size)
        assert request_id not in self._vectors
        new = m.NewRequest(request_id, prompt_token_ids, NO_SAMPLING, priority, cache_salt, adapter, pooling=pooling)
        waiting = self._vectors[request_id] = asyncio.get_running_loop().create_future()
        try:
            self._child.send(new)
            return await waiting
        finally:
            del self._vectors[request_id]
            if waiting.cancelled() and self.alive:
                self._child.send(m.Abort([request_id]))

    @property
    def _limits(self) -> Limits:
        return Limits(self.max_model_len, self.vocab_size, self.args.max_logprobs)

    def _take(self, outputs: list[m.TokenOutput]) -> None:
        if self._vectors:
            outputs = [output for output in outputs if not self._take_vector(output)]
        deltas, aborts = self._processor.process(outputs)
        for request_id, new in deltas.items():
            if mailbox := self._mailboxes.get(request_id):
                mailbox.put(new)
        if aborts:
            self._child.send(m.Abort(aborts))

    def _take_vector(self, output: m.TokenOutput) -> bool:
        waiting = self._vectors.get(output.id)
        if waiting is None:
            return False
        if not waiting.done():
            waiting.set_result(Pooled.of(output))
        return True

    def _let_go(self, error: DovetailError) -> None:
        super()._let_go(error)
        for mailbox in self._mailboxes.values():
            mailbox.fail(EngineDeadError(self.dead_reason))
        for waiting in self._vectors.values():
            if not waiting.done():
                waiting.set_exception(EngineDeadError(self.dead_reason))

"""Resources of a request other than KV-cache blocks: a LoRA slot and a compiled grammar."""

from __future__ import annotations

import numpy as np

from dovetail.api.errors import DovetailError, RequestError
from dovetail.api.grammar import GrammarBackend
from dovetail.api.logits import LogitsProcessorContext
from dovetail.engine.adapters.lora_slots import AdapterSlots
from dovetail.engine.engine_request import Request
from dovetail.engine.grammars.checks import no_backend_error
from dovetail.engine.grammars.compiler import GrammarManager
from dovetail.engine.messages import NewRequest, TokenOutput
from dovetail.engine.request.checks import find_eos_token_ids
from dovetail.engine.sampling.logits_processors import LogitsProcessors
from dovetail.engine.setup import load_tokenizer
from dovetail.engine.step.input_batch import StepWork
from dovetail.engine.step.runner import ModelRunner
from dovetail.kernel.blame import blame, check_class
from dovetail.kernel.discovery import import_part
from dovetail.kernel.plan import Plan


class RequestResources:
    """The scheduler's :class:`~dovetail.engine.step.scheduler.AdmissionGate`, and the owner of grammars.

    Args:
        max_cpu_loras: adapters cached on the host.
    """

    def __init__(self, plan: Plan, runner: ModelRunner, max_cpu_loras: int | None) -> None:
        self.adapters = AdapterSlots(runner.ctx, max_cpu_loras, runner.model.rename)
        self.plan = plan
        self.vocab_size = runner.config.vocab_size
        self.eos_ids = sorted(find_eos_token_ids(plan))
        self.grammars = GrammarManager(
            self._load_grammar_backend, self.vocab_size, self.eos_ids, part=plan.grammar.part if plan.grammar else None
        )
        self.logits_processors = LogitsProcessors(plan, LogitsProcessorContext(self.vocab_size, runner.device))
        self._compiling: list[Request] = []

    def _load_grammar_backend(self) -> GrammarBackend:
        """Load the backend with its tokenizer. Called when the first request needs a grammar."""
        if self.plan.grammar is None:
            raise no_backend_error()
        part, tokenizer = self.plan.grammar.part, load_tokenizer(self.plan).backend
        backend: type[GrammarBackend] = import_part(part, part.target)
        check_class(part, part.target, backend, GrammarBackend)
        with blame(part, "to read the tokenizer"):
            return backend(tokenizer, self.vocab_size, self.eos_ids)

    def attach(self, request: Request, new: NewRequest) -> None:
        """Assign the adapter and start compiling the grammar of a new request.

        Raises:
            RequestError: one of them is not available.
        """
        if request.pooling_params is None:
            self.logits_processors.attach(request)
        keys = []
        if new.adapter is not None:
            keys.append(self.adapters.assign(request, new.adapter))
        if new.cache_salt:  # last: it may hold any text, and must not pass for an adapter's key
            keys.append(f"salt:{new.cache_salt}")
        request.prefix_key = "\n".join(keys)
        if request.params.structured_outputs is not None:
            request.grammar = self.grammars.compile(request.params.structured_outputs)
            self._compiling.append(request)

    def pop_failed(self) -> list[tuple[Request, DovetailError]]:
        """Requests whose grammar did not compile, each returned once. They may have been aborted meanwhile."""
        if not self._compiling:
            return []
        found, compiling = [], []
        for request in self._compiling:
            assert request.grammar is not None
            if not request.grammar.ready:
                compiling.append(request)
            elif (failure := request.grammar.failure) is not None:
                found.append((request, failure))
        self._compiling = compiling
        return found

    def can_admit(self, request: Request) -> bool:
        return (request.grammar is None or request.grammar.ready) and self.adapters.can_admit(request)

    def acquire(self, request: Request) -> None:
        self.adapters.acquire(request)

    def release(self, request: Request) -> None:
        self.adapters.release(request)

    def build_masks(self, work: StepWork) -> dict[int, np.ndarray]:
        """The masks of allowed tokens, for each logit row whose request has a grammar (see
        :mod:`dovetail.api.grammar`).
        """
        masks: dict[int, np.ndarray] = {}
        row = 0
        for request, draft in zip(work.sampled_requests, work.drafts, strict=True):
            if request.grammar is not None:
                masks.update(enumerate(request.grammar.masks(draft), row))
            row += 1 + len(draft)
        return masks

    def find_rows_that_must_end(self, masks: dict[int, np.ndarray]) -> set[int]:
        """Logit rows whose grammar only allows end tokens."""
        return {row for row, mask in masks.items() if self.grammars.allows_only_end(mask)}

    def advance_grammar(self, request: Request, output: TokenOutput) -> None:
        """Advance a request's grammar by its new tokens. If that fails, the output ends with the error."""
        grammar = request.grammar
        if grammar is None or output.finish_reason == "error":
            return
        # The grammar is not asked about what ends an output.
        followed = output.finish_reason is not None or grammar.accept(output.token_ids)
        if grammar.failure is not None:  # then nothing kept the newest tokens within the form
            output.finish_reason, output.error = "error", str(grammar.failure)
            output.is_request_error = isinstance(grammar.failure, RequestError)
        elif not followed:
            output.finish_reason, output.error = "error", "the output left its grammar, which is a fault of the engine"
        if output.finish_reason == "error":
            output.stop_reason = None

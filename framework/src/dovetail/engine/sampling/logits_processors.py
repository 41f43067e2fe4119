"""Logits processors in the engine: created when first needed, and called for the lines that use them.

Letters: L lines, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dovetail.api.errors import PluginError
from dovetail.api.logits import LogitsProcessor, LogitsProcessorContext, LogitsRow
from dovetail.engine.engine_request import Request
from dovetail.engine.request.logits_processors import NamedProcessor, check_logits_processors, read_arguments
from dovetail.engine.sampling.slots import Upload
from dovetail.kernel.blame import accuse, blame, check_class, wrong_answer
from dovetail.kernel.discovery import import_dotted, import_hint, import_part
from dovetail.kernel.interrupts import reraise_interrupt
from dovetail.kernel.plan import Plan
from dovetail.kernel.plan_parts import LogitsProcessorPlan
from dovetail.utils import logs


class LogitsProcessors:
    """The logits processors of one engine.

    Raises:
        PluginError: one for all requests cannot be created.
        RequestError: one for all requests requires arguments.
    """

    def __init__(self, plan: Plan, context: LogitsProcessorContext) -> None:
        self._plan = plan
        self._context = context
        self._made: dict[str, NamedProcessor] = {}
        self._everywhere = [(each, read_arguments(each, {})) for each in plan.logits_processors if each.everywhere]
        for each, _ in self._everywhere:
            self._get(each)

    def attach(self, request: Request) -> None:
        """Give a request the processors that it names, and those for all requests that it does not name.

        Raises:
            RequestError: there is none of a name, or its arguments are not valid.
            PluginError: one cannot be created.
        """
        named = check_logits_processors(request.params, self._plan)
        own = {processor.name for processor, _ in named}
        calls = [*(call for call in self._everywhere if call[0].name not in own), *named]
        made = [self._get(processor) for processor, _ in calls]
        request.logits_processors = [
            (named, LogitsRow(request.id, args, request.tokens, request.num_prompt_tokens))
            for named, (_, args) in zip(made, calls, strict=True)
        ]

    @staticmethod
    def _import(processor: LogitsProcessorPlan) -> Any:
        try:
            return (
                import_part(processor, processor.target) if processor.distribution else import_dotted(processor.target)
            )
        except PluginError as error:
            if processor.distribution:
                raise
            # The user's own, which the process that was started may have found on a path of its own.
            raise PluginError(error.problem, import_hint(processor.target.partition(":")[0])) from error.__cause__

    def _get(self, processor: LogitsProcessorPlan) -> NamedProcessor:
        if (made := self._made.get(processor.name)) is not None:
            return made
        kind = self._import(processor)
        check_class(processor, processor.target, kind, LogitsProcessor)
        with blame(processor, "to start"):
            new: LogitsProcessor = kind(self._context)
        made = self._made[processor.name] = NamedProcessor(processor, new)
        return made


@dataclass(frozen=True)
class ProcessorCall:
    """One call of one processor in a step.

    Attributes:
        place: of the processor among those of each request, from 0.
        lines: int64 ``[N]``, on the device.
        requests: of these lines.
        rows: the processor's view of the requests.
    """

    named: NamedProcessor
    place: int
    lines: Tensor
    requests: Sequence[Request]
    rows: Sequence[LogitsRow]

    def apply(self, scores: Tensor) -> Tensor:
        """Change the scores in place. If the processor fails, every token of its lines is forbidden, and their requests
        store the reason.

        Args:
            scores: float32 ``[L, V]``.

        Returns:
            bool ``[N]``: the lines that hold NaN now and held none before.
        """
        given = scores.index_select(0, self.lines)
        shape, dtype, device = given.shape, given.dtype, given.device
        broken = _holds_nan(given)  # before the processor may change them in place
        plan = self.named.plan
        try:
            answer: Any = self.named.processor.apply(given, self.rows)
            changed: Tensor = given if answer is None else answer
            if not (
                isinstance(changed, Tensor) and (changed.shape, changed.dtype, changed.device) == (shape, dtype, device)
            ):
                raise wrong_answer(plan, "apply()", changed, f"{dtype} {list(shape)} on {device}, or None")
        except BaseException as error:  # a plugin's fault is no reason to fail requests that do not need it
            reraise_interrupt(error)
            logs.report_fault(accuse(error, plan, "to change logits (apply)"))
            for request in self.requests:
                request.failure = f"the logits processor {plan.name} failed"
            changed = torch.full_like(scores[: len(self.requests)], -torch.inf)
        scores.index_copy_(0, self.lines, changed)
        return _holds_nan(changed) & ~broken


def _holds_nan(scores: Tensor) -> Tensor:
    """The lines of ``[N, V]`` with NaN, bool ``[N]``."""
    return scores.amax(-1).isnan()


def build_processor_calls(requests: Sequence[Request], upload: Upload) -> list[ProcessorCall]:
    """The calls of a step. Each request's processors run in its own order; lines with the same processor at the same
    place share a call.

    Args:
        requests: one for each line. One with processors has one line.
    """
    calls: list[ProcessorCall] = []
    most = max((len(request.logits_processors) for request in requests), default=0)
    for place in range(most):
        lines: dict[NamedProcessor, list[int]] = {}
        for line, request in enumerate(requests):
            if len(request.logits_processors) > place:
                lines.setdefault(request.logits_processors[place][0], []).append(line)
        for named, theirs in lines.items():
            some = [requests[line] for line in theirs]
            rows = [request.logits_processors[place][1] for request in some]
            calls.append(ProcessorCall(named, place, upload(np.array(theirs, np.int64)), some, rows))
    return calls

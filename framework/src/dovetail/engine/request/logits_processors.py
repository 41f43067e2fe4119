"""Checks the logits processors that a request names. A request can only name known ones; it never causes an import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from dovetail.api.errors import RequestError
from dovetail.api.logits import LogitsProcessor
from dovetail.engine.request.params import SamplingParams
from dovetail.kernel.blame import blame
from dovetail.kernel.discovery import import_part
from dovetail.kernel.plan import Plan
from dovetail.kernel.plan_parts import LogitsProcessorPlan
from dovetail.kernel.validation import describe_validation_error

PARAM = "logits_processors"


@dataclass(frozen=True, eq=False)
class NamedProcessor:
    """A logits processor of the engine, with what the Plan says of it."""

    plan: LogitsProcessorPlan
    processor: LogitsProcessor


def check_logits_processors(params: SamplingParams, plan: Plan) -> list[tuple[LogitsProcessorPlan, dict[str, Any]]]:
    """The logits processors of a request, each with its arguments.

    Raises:
        RequestError: there is none of that name, or its arguments are not valid.
    """
    known = {processor.name: processor for processor in plan.logits_processors} if params.logits_processors else {}
    found = []
    for entry in params.logits_processors:
        processor = known.get(entry["name"])
        if processor is None:
            raise RequestError(
                f"there is no logits processor {entry['name'][:200]!r} here; there are {', '.join(known) or 'none'}",
                "name one of those; the server's owner installs plugins, or names classes with --logits-processors",
                param=PARAM,
            )
        found.append((processor, read_arguments(processor, entry["args"])))
    return found


def read_arguments(processor: LogitsProcessorPlan, args: dict[str, Any]) -> dict[str, Any]:
    """Validate arguments with the card's ``config``, which adds defaults.

    Raises:
        RequestError: they are not valid.
    """
    if processor.config is None:
        return args
    config: type[BaseModel] = import_part(processor, processor.config)
    with blame(processor, f"to read arguments with {processor.config}"):
        try:
            return config.model_validate(args).model_dump()
        except ValidationError as error:
            faults = "; ".join(map(describe_validation_error, error.errors()))
            raise RequestError(
                f"logits_processors: the arguments of {processor.name}: {faults}",
                f"it takes {', '.join(config.model_fields) or 'none'}",
                param=PARAM,
            ) from None

"""Checks a request's output format in the API's process, before the request is queued."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from contextvars import ContextVar

import msgspec

from dovetail.api.errors import RequestError
from dovetail.api.grammar import GrammarKind, GrammarSource
from dovetail.engine.request.params import StructuredOutputs
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.plan import Plan

logger = logging.getLogger(__name__)
PARAM = "structured_outputs"
collected_notices: ContextVar[list[str] | None] = ContextVar("dovetail_notices", default=None)
"""A list that collects notices for the current request, set by the code that answers it. Notices are also logged."""
KINDS: tuple[GrammarKind, ...] = ("json", "json_object", "regex", "choice", "grammar", "structural_tag")
"""The kinds of grammar: the fields of :class:`~dovetail.engine.request.params.StructuredOutputs`."""


def find_kind(params: StructuredOutputs) -> GrammarKind:
    # Exactly one is set, and of its type: the parameters' own checks see to that.
    (kind,) = (kind for kind in KINDS if getattr(params, kind) not in (None, False))
    return kind


def build_grammar_source(params: StructuredOutputs) -> GrammarSource:
    """The output format as text. Equal formats give equal text."""
    kind = find_kind(params)
    value = getattr(params, kind)
    if kind == "json_object":
        return GrammarSource(kind, "")
    # The order of a schema's properties is that of the output, so it is kept.
    return GrammarSource(kind, value if isinstance(value, str) else json.dumps(value))


def as_text(params: StructuredOutputs) -> StructuredOutputs:
    """The same format with its JSON as text, as it is sent to the engine: messages have no integers beyond 64 bits."""
    for kind in ("json", "structural_tag"):
        value = getattr(params, kind)
        if value is not None and not isinstance(value, str):
            return msgspec.structs.replace(params, **{kind: json.dumps(value)})
    return params


def check_structured_outputs(params: StructuredOutputs, plan: Plan) -> list[str]:
    """Check that the grammar backend supports the output format, in this process. It takes as long as compiling it; for
    a server see :class:`~dovetail.engine.grammars.check_process.GrammarChecker`.

    Returns:
        What the backend ignores in the format, one sentence each. They are also logged, and added to
            :data:`collected_notices`.

    Raises:
        RequestError: no backend is installed, it does not support this kind of format, or the format does not compile;
            says which.
    """
    source = build_grammar_source(params)
    return report_notices(import_dotted(find_validator(source.kind, plan))(source) or ())


def find_validator(kind: GrammarKind, plan: Plan) -> str:
    """The ``validate_source`` of the grammar backend.

    Raises:
        RequestError: no backend is installed, or it does not support this kind of format.
    """
    if plan.grammar is None or plan.grammar_validate is None:
        raise no_backend_error()
    if kind not in plan.grammar_kinds:
        raise RequestError(
            f"the form {kind} was asked for, but the grammar backend {plan.grammar.part.name} does {', '.join(plan.grammar_kinds)}",
            param=PARAM,
        )
    return plan.grammar_validate


def report_notices(found: Iterable[str]) -> list[str]:
    """Log what a backend ignores in a format, and add it to :data:`collected_notices`."""
    notices = list(found)
    if notices:
        logger.warning("The form of an output is kept in part: %s.", "; ".join(notices))
        if (collected := collected_notices.get()) is not None:
            collected += notices
    return notices


def no_backend_error() -> RequestError:
    return RequestError(
        "structured output was asked for, but no grammar backend is installed",
        "install a plugin that registers one (dovetail plugins list shows what is there), and restart",
        param=PARAM,
    )

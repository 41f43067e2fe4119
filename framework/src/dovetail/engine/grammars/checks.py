"""What a request says of its output's form, and whether that can be had: in the API's process, before anything is queued."""

from __future__ import annotations

import json

from dovetail.api.errors import RequestError
from dovetail.api.grammar import GrammarKind, GrammarSource
from dovetail.engine.request.params import StructuredOutputs
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.plan import Plan

PARAM = "structured_outputs"
KINDS: tuple[GrammarKind, ...] = ("json", "json_object", "regex", "choice", "grammar", "structural_tag")
"""Fields of :class:`~dovetail.engine.request.params.StructuredOutputs`, which are the kinds of grammar."""


def build_grammar_source(params: StructuredOutputs) -> GrammarSource:
    """The form as text, the same for requests that ask for the same."""
    # Exactly one is set, and of its type: the parameters' own checks see to that.
    (kind,) = (kind for kind in KINDS if getattr(params, kind) not in (None, False))
    value = getattr(params, kind)
    if kind == "json_object":
        return GrammarSource(kind, "")
    # The order of a schema's properties is that of the output, so it is kept.
    return GrammarSource(kind, value if isinstance(value, str) else json.dumps(value))


def check_structured_outputs(params: StructuredOutputs, plan: Plan) -> None:
    """Refuse a form that the chosen grammar backend cannot keep. Takes as long as compiling it, so a server calls it in a thread.

    Raises:
        RequestError: no backend is installed, it lacks this kind of form, or the form does not compile; says which.
    """
    source = build_grammar_source(params)
    if plan.grammar is None or plan.grammar_validate is None:
        raise no_backend_error()
    if source.kind not in plan.grammar_kinds:
        raise RequestError(
            f"the form {source.kind} was asked for, but the grammar backend {plan.grammar.part.name} does {', '.join(plan.grammar_kinds)}",
            param=PARAM,
        )
    import_dotted(plan.grammar_validate)(source)


def no_backend_error() -> RequestError:
    return RequestError(
        "structured output was asked for, but no grammar backend is installed",
        "install a plugin that registers one (dovetail plugins list shows what is there), and restart",
        param=PARAM,
    )

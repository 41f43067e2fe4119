"""Sampling parameters of vLLM, as ``SamplingParams`` takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.utils.foreign.option import Table, accept, alias, refuse

FORMS = ("json", "json_object", "regex", "choice", "grammar", "structural_tag")


def structured_form(value: Any) -> dict[str, Any] | None:
    """The output format in vLLM's ``GuidedDecodingParams``, without the choice of its library."""
    found = {name: value.get(name) if isinstance(value, Mapping) else getattr(value, name, None) for name in FORMS}
    return {name: form for name, form in found.items() if form not in (None, False)} or None


def json_schema(value: Any) -> dict[str, Any]:
    """A schema, from a schema or a pydantic class."""
    make = getattr(value, "model_json_schema", None)
    return {"json": make() if callable(make) else value}


SAMPLING = Table(
    alias("guided-decoding", "structured_outputs", convert=structured_form, detail="the form in it"),
    alias("guided-options-request", "structured_outputs", convert=structured_form, detail="the form in it"),
    alias("guided-json", "structured_outputs", convert=json_schema, detail="a form"),
    alias("guided-regex", "structured_outputs.regex"),
    alias("guided-choice", "structured_outputs.choice"),
    alias("guided-grammar", "structured_outputs.grammar"),
    accept("guided-decoding-backend guided-whitespace-pattern", "there is one grammar backend"),
    accept("skip-clone flat-logprobs output-text-buffer-length", "it changes no answer"),
    accept("skip-reading-prefix-cache", "cached prefixes change no answer"),
    accept(
        "early-stopping length-penalty",
        "they are of beam search: BeamSearchParams",
        only=(False, 1, 1.0),
        reason="it is of beam search",
        instead="call LLM.beam_search with BeamSearchParams",
    ),
    refuse("use-beam-search", "it has a call of its own", "call LLM.beam_search with BeamSearchParams", takes="switch"),
    refuse("extra-args", "no plugin of the sampler reads them"),
    refuse("thinking-token-budget", "budgets of reasoning are not built", "bound the answer with max_tokens"),
    refuse("logprob-token-ids", "logprobs are of the likeliest tokens", "give logprobs=-1 for the whole vocabulary"),
    refuse("repetition-detection", "repetitions do not end an answer", "give repetition_penalty"),
)

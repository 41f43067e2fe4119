"""Forms that are refused before anything is queued."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from dovetail.api import GrammarSource, RequestError
from dovetail.engine.grammars.checks import as_text, build_grammar_source, check_structured_outputs, collected_notices
from dovetail.engine.request.params import StructuredOutputs
from dovetail.kernel.plan import Plan
from dovetail.kernel.plan_parts import Choice, Part

PART = Part(name="slow", distribution="fake", version="1", target="fake:Backend")


def validate(source: GrammarSource) -> list[str]:
    if source.text == "(":
        raise RequestError("unclosed", param="structured_outputs")
    return [f"{source.text} is left out"] if source.text == "b" else []


def plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "grammar": Choice(role="grammar", part=PART, reason="the only one"),
        "grammar_validate": f"{__name__}:validate",
        "grammar_kinds": ("regex", "choice"),
        **changes,
    }
    return Plan.model_construct(**values)


def test_what_the_backend_takes_passes() -> None:
    assert check_structured_outputs(StructuredOutputs(regex="a"), plan()) == []


def test_what_is_left_out_is_told_in_the_log_and_to_whoever_answers(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    token = collected_notices.set(told)
    try:
        assert check_structured_outputs(StructuredOutputs(regex="b"), plan()) == ["b is left out"]
    finally:
        collected_notices.reset(token)
    assert told == ["b is left out"]
    assert "kept in part: b is left out" in caplog.text


@pytest.mark.parametrize(
    ("form", "changes", "told"),
    [
        (
            {"regex": "a"},
            {"grammar": None, "grammar_validate": None, "grammar_kinds": ()},
            "structured output was asked for, but no grammar backend is installed; install a plugin that registers one "
            "(dovetail plugins list shows what is there), and restart",
        ),
        (
            {"json_object": True},
            {},
            "the form json_object was asked for, but the grammar backend slow does regex, choice",
        ),
        ({"regex": "("}, {}, "unclosed"),
    ],
)
def test_what_it_does_not_is_refused_with_the_reason(form: dict[str, Any], changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_structured_outputs(StructuredOutputs(**form), plan(**changes))
    assert str(caught.value) == told
    assert caught.value.param == "structured_outputs"


def test_schemas_go_to_the_engine_as_text_since_messages_have_no_larger_integers() -> None:
    schema = {"type": "string", "maxLength": 2**64}
    sent = as_text(StructuredOutputs(json=schema))
    assert sent.json == json.dumps(schema)
    assert build_grammar_source(sent) == build_grammar_source(StructuredOutputs(json=schema))
    msgspec.msgpack.encode(sent)
    choice = StructuredOutputs(choice=["a"])
    assert as_text(choice) is choice

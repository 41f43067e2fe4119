"""Sampling parameters refuse what they cannot mean, and say which of them it was."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dovetail import (
    BeamSearchParams,
    GuidedDecodingParams,
    RequestOutputKind,
    SamplingParams,
    StructuredOutputs,
    StructuredOutputsParams,
)
from dovetail.api import RequestError
from dovetail.engine import messages as m
from dovetail.engine.request.defaults import apply_defaults
from dovetail.engine.request.parameter_rules import LIST_PARAMS, RULES


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("top_k", 5.5),
        ("max_tokens", 10.5),
        ("n", True),
        ("temperature", "hot"),
        ("min_p", 1.5),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("seed", 2**64),
        ("stop", [7]),
        ("stop", b"x"),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [True]),
        ("stop_token_ids", "7"),
        ("include_stop_str_in_output", "yes"),
        ("ignore_eos", 1),
        ("spaces_between_special_tokens", 0),
        ("detokenize", "false"),
        ("best_of", 0),
        ("best_of", 2.0),
        ("logit_bias", {}.keys()),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {-1: 1}),
        ("logit_bias", {1.5: 1}),
        ("logit_bias", {1: 100.5}),
        ("logit_bias", {1: float("nan")}),
        ("logit_bias", {1: True}),
        ("logit_bias", {1: 1, "1": 2}),
        ("bad_words", ["fine", 3]),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [-1]),
        ("allowed_token_ids", 5),
        ("logprobs", -2),
        ("logprobs", True),
        ("prompt_logprobs", 1.0),
        ("truncate_prompt_tokens", 0),
        ("truncate_prompt_tokens", -2),
        ("structured_outputs", "json"),
        ("structured_outputs", {}),
        ("structured_outputs", {"yaml": "x"}),
        ("structured_outputs", {"json": "{}", "regex": "a"}),
        ("structured_outputs", {"regex": ""}),
        ("structured_outputs", {"regex": 5}),
        ("structured_outputs", {"choice": []}),
        ("structured_outputs", {"choice": ["a", 1]}),
        ("structured_outputs", {"json_object": "yes"}),
        ("structured_outputs", {"grammar": {"a": 1}}),
    ],
)
def test_a_value_out_of_range_names_its_parameter(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=name) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("stop", None, []),
        ("stop", ("a", "b"), ["a", "b"]),
        ("stop_token_ids", None, []),
        ("bad_words", "one", ["one"]),
        ("logit_bias", {"7": 5, 8: -100}, {7: 5.0, 8: -100.0}),
        ("logit_bias", {}, None),
        ("allowed_token_ids", (1, 2), [1, 2]),
        ("logprobs", -1, -1),
        ("logprobs", 0, 0),
        ("truncate_prompt_tokens", -1, -1),
        ("temperature", 1, 1),
        ("max_tokens", None, None),
        ("structured_outputs", {"choice": ("a", "b")}, StructuredOutputs(choice=["a", "b"])),
        ("structured_outputs", {"json": {}}, StructuredOutputs(json={})),
        ("structured_outputs", StructuredOutputsParams(json_object=True), StructuredOutputs(json_object=True)),
    ],
)
def test_what_a_value_is_read_as(name: str, value: Any, kept: Any) -> None:
    assert getattr(SamplingParams(**{name: value}), name) == kept


def test_every_parameter_has_a_rule() -> None:
    assert {*RULES, "structured_outputs"} == set(SamplingParams.__struct_fields__)
    assert set(LIST_PARAMS) <= set(RULES)


def test_a_refusal_does_not_repeat_a_long_value() -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(allowed_token_ids=["x"] * 10_000)  # type: ignore[list-item]
    assert len(str(caught.value)) < 400


def test_best_of_is_at_least_n() -> None:
    with pytest.raises(RequestError, match="best_of is 2, wanted at least n") as caught:
        SamplingParams(n=3, best_of=2)
    assert caught.value.param == "best_of"
    assert SamplingParams(n=2, best_of=5).num_sequences == 5
    assert SamplingParams(n=2).num_sequences == 2


def test_stop_strings_need_text() -> None:
    with pytest.raises(RequestError, match="stop_token_ids"):
        SamplingParams(stop=["x"], detokenize=False)


def test_a_form_changed_for_the_worse_is_refused() -> None:
    form = StructuredOutputs(regex="a")
    form.grammar = "b"
    with pytest.raises(RequestError, match="regex, grammar"):
        SamplingParams(structured_outputs=form)


def test_a_clone_shares_nothing() -> None:
    params = SamplingParams(stop=["a"], logit_bias={1: 2.0}, structured_outputs=StructuredOutputs(choice=["a"]))
    clone = params.clone()
    assert clone == params
    clone.stop.append("b")
    clone.logit_bias[3] = 1.0  # type: ignore[index]
    clone.structured_outputs.choice.append("b")  # type: ignore[union-attr]
    assert (params.stop, params.logit_bias) == (["a"], {1: 2.0})
    assert params.structured_outputs == StructuredOutputs(choice=["a"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beam_width", 0),
        ("max_tokens", None),
        ("ignore_eos", 1),
        ("temperature", 0.7),
        ("length_penalty", float("inf")),
        ("length_penalty", "long"),
    ],
)
def test_beam_search_parameters_name_what_is_wrong(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=name) as caught:
        BeamSearchParams(**{"beam_width": 2, "max_tokens": 3, name: value})
    assert caught.value.param == name


def test_beam_search_parameters_may_be_given_by_place() -> None:
    assert BeamSearchParams(2, 3, length_penalty=2).max_tokens == 3


def test_defaults_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters are made several times on a request's way, and most of them are left as they are."""
    read: list[str] = []
    for name, rule in RULES.items():
        monkeypatch.setitem(RULES, name, rule._replace(read=lambda value, name=name: read.append(name) or value))
    SamplingParams(temperature=0.5, stop=["x"])
    assert read == ["temperature", "stop"]


def test_min_tokens_cannot_exceed_max_tokens() -> None:
    with pytest.raises(RequestError, match="min_tokens"):
        SamplingParams(min_tokens=5, max_tokens=4)


def test_one_stop_string_needs_no_list() -> None:
    assert SamplingParams(stop="x").stop == ["x"]  # type: ignore[arg-type]


def test_top_k_of_minus_one_means_all() -> None:
    assert SamplingParams(top_k=-1).top_k == 0


def test_defaults_fill_in_and_their_max_tokens_caps() -> None:
    defaults = {"temperature": 0.3, "max_tokens": 10}
    assert apply_defaults(None, defaults).temperature == 0.3
    assert apply_defaults(SamplingParams(max_tokens=50), defaults).max_tokens == 10
    assert apply_defaults(SamplingParams(max_tokens=None), defaults).max_tokens == 10
    assert apply_defaults(SamplingParams(max_tokens=5), defaults).max_tokens == 5


@pytest.mark.parametrize(
    "message",
    [
        m.NewRequest("a", [1, 2], SamplingParams(temperature=0.5, stop=["x"])),
        m.NewRequest(
            "a",
            [1],
            SamplingParams(
                logit_bias={5: -3.0},
                allowed_token_ids=[1],
                structured_outputs=StructuredOutputs(json={"type": "object"}),
                bad_words=["b"],
            ),
            2,
            "salt",
            "adapter",
            [[1, 2], [3]],
        ),
        m.Call(1, "sleep", [2]),
        m.Abort(["a"]),
        m.Stop(),
        m.Start("{}", "{}"),
    ],
)
def test_messages_to_the_engine_survive_the_journey(message: m.ToEngine) -> None:
    assert m.decode_to_engine(m.encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        m.StepOutputs(
            [
                m.TokenOutput("a", [1], logprobs=[m.TokenLogprobs([1, 2], [-0.5, -1.0], 1)], cached_tokens=3),
                m.TokenOutput("b", [2], "stop", 7),
                m.TokenOutput("c", [], "error", None, "why"),
            ],
            m.EngineStats(running=2, kv_usage=0.5),
        ),
        m.Answer(1, True),
        m.Answer(2, None, ("RequestError", "p", "h")),
        m.Loading(1, 2),
        m.Failed("E", "p", "h", "t"),
        m.EngineInfo(
            max_model_len=1,
            max_num_seqs=2,
            budget="b",
            kernels={"k": 1},
            device="cpu",
        ),
    ],
)
def test_messages_from_the_engine_survive_the_journey(message: m.FromEngine) -> None:
    assert m.decode_from_engine(m.encode(message)) == message


def test_garbage_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        m.decode_to_engine(b"")


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("stop", "", []),
        ("stop", [""], []),
        ("stop", ["", "a", ""], ["a"]),
        ("bad_words", [""], []),
        ("seed", -1, None),
        ("seed", -2, -2),
        ("max_tokens", -1, None),
        ("top_k", -1, 0),
        ("top_k", 2**31, 2**31 - 1),
        ("top_k", 2**80, 2**31 - 1),
    ],
)
def test_what_asks_for_nothing_in_other_words(name: str, value: Any, kept: Any) -> None:
    assert getattr(SamplingParams(**{name: value}), name) == kept


# What scripts for vLLM say.


def test_the_arguments_of_vllm_that_ask_for_nothing_here() -> None:
    form = GuidedDecodingParams(
        json={"type": "object"}, backend="xgrammar", disable_fallback=True, whitespace_pattern=None
    )
    params = SamplingParams(structured_outputs=form)
    assert params.structured_outputs == StructuredOutputs(json={"type": "object"})
    new = m.NewRequest("r", [1], params)
    assert m.decode_to_engine(m.encode(new)) == new


@pytest.mark.parametrize(
    "asked",
    [
        {"disable_any_whitespace": True},
        {"disable_additional_properties": True},
        {"whitespace_pattern": " "},
        {"regex": "a"},
    ],
)
def test_the_arguments_of_vllm_that_cannot_be_had(asked: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(asked))):
        StructuredOutputsParams(json="{}", **asked)


@pytest.mark.parametrize("kind", [*RequestOutputKind, 0, 1, 2])
def test_kinds_of_outputs(kind: Any) -> None:
    assert SamplingParams(output_kind=kind).output_kind is RequestOutputKind(kind)


def test_a_kind_of_output_that_there_is_not() -> None:
    with pytest.raises(RequestError, match="output_kind is 7"):
        SamplingParams(output_kind=7)  # type: ignore[arg-type]

"""Sampling parameters refuse what they cannot mean, and say which of them it was."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dovetail import SamplingParams
from dovetail.api import RequestError
from dovetail.engine import messages as m
from dovetail.engine.defaults import with_defaults


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
        ("top_k", 2**63),
        ("top_k", 5.5),
        ("max_tokens", 10.5),
        ("n", True),
        ("temperature", "hot"),
        ("temperature", None),
        ("min_p", 1.5),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("seed", 2**64),
        ("stop", [""]),
        ("stop_token_ids", [-1]),
    ],
)
def test_a_value_out_of_range_names_its_parameter(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=name) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name


def test_min_tokens_cannot_exceed_max_tokens() -> None:
    with pytest.raises(RequestError, match="min_tokens"):
        SamplingParams(min_tokens=5, max_tokens=4)


def test_one_stop_string_needs_no_list() -> None:
    assert SamplingParams(stop="x").stop == ["x"]  # type: ignore[arg-type]


def test_top_k_of_minus_one_means_all() -> None:
    assert SamplingParams(top_k=-1).top_k == 0


def test_defaults_fill_in_and_their_max_tokens_caps() -> None:
    defaults = {"temperature": 0.3, "max_tokens": 10}
    assert with_defaults(None, defaults).temperature == 0.3
    assert with_defaults(SamplingParams(max_tokens=50), defaults).max_tokens == 10
    assert with_defaults(SamplingParams(max_tokens=None), defaults).max_tokens == 10
    assert with_defaults(SamplingParams(max_tokens=5), defaults).max_tokens == 5


@pytest.mark.parametrize(
    "message",
    [
        m.NewRequest("a", [1, 2], SamplingParams(temperature=0.5, stop=["x"])),
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
            [m.TokenOutput("a", [1]), m.TokenOutput("b", [2], "stop", 7), m.TokenOutput("c", [], "error", None, "why")]
        ),
        m.Loading(1, 2),
        m.Failed("E", "p", "h", "t"),
        m.EngineInfo(1, 2, 3, 4, {"k": 1}, "cpu"),
    ],
)
def test_messages_from_the_engine_survive_the_journey(message: m.FromEngine) -> None:
    assert m.decode_from_engine(m.encode(message)) == message


def test_garbage_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        m.decode_to_engine(b"")

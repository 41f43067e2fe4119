"""Which logits processors requests may name, and which all of them get."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from dovetail import EngineArgs, SamplingParams
from dovetail.api import LogitsProcessorCard, RequestError, UsageError
from dovetail.engine.request.logits_processors import check_logits_processors

from .installation import plan


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: int = Field(default=3, ge=0)


def card(name: str) -> LogitsProcessorCard:
    return LogitsProcessorCard(name=name, target="x:X", config=f"{__name__}:Arguments")


def test_plugins_are_there_to_be_named_and_the_options_give_them_to_all(folder: Path) -> None:
    found = plan(folder, card("one"), card("two"), logits_processors=["two", f"{__name__}:Arguments"])
    assert [(p.name, p.target, p.everywhere) for p in found.logits_processors if p.name != "tilt"] == [
        ("one", "x:X", False),
        ("two", "x:X", True),
        (f"{__name__}:Arguments", f"{__name__}:Arguments", True),
    ]
    assert EngineArgs(logits_processors=[Arguments, "two"]).logits_processors == [f"{__name__}:Arguments", "two"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("three", r"--logits-processors: there is no logits processor 'three' \(installed: one, tilt\)"),
        ("no.such_module:Class", "there is no module no.such_module"),
        ("no_such_module:Class", "there is no module no_such_module"),
        ("a/b:Class", "there is no logits processor 'a/b:Class'"),
    ],
)
def test_what_is_not_there_is_known_before_anything_is_loaded(folder: Path, name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        plan(folder, card("one"), logits_processors=[name])


def test_a_module_of_the_working_directory_is_only_found_on_the_path(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_the_folder" / "inner").mkdir(parents=True)
    (tmp_path / "of_the_folder" / "inner" / "__init__.py").touch()
    (tmp_path / "of_the_folder" / "processors.py").touch()
    monkeypatch.chdir(tmp_path)
    for module in ("of_the_folder.processors", "of_the_folder.inner"):
        with pytest.raises(UsageError, match=r"there is no module .*in the working directory.*PYTHONPATH=\."):
            plan(folder, card("one"), logits_processors=[f"{module}:Class"])
    with pytest.raises(UsageError, match="put its folder on PYTHONPATH"):
        plan(folder, card("one"), logits_processors=["of_the_folder.others:Class"])
    monkeypatch.syspath_prepend(".")
    assert plan(folder, card("one"), logits_processors=["of_the_folder.processors:Class"])


@pytest.mark.parametrize(
    ("given", "args"),
    [
        ("one", {"token": 3}),
        (["one"], {"token": 3}),
        ([{"name": "one"}], {"token": 3}),
        ([{"name": "one", "args": {"token": 5}}], {"token": 5}),
        ([{"qualname": "one", "args": [], "kwargs": {"token": 5}}], {"token": 5}),
        ([{"qualname": "one", "args": None, "kwargs": None}], {"token": 3}),
    ],
)
def test_requests_name_them_in_several_ways(folder: Path, given: object, args: dict[str, int]) -> None:
    params = SamplingParams(logits_processors=given)  # type: ignore[arg-type]
    ((processor, read),) = check_logits_processors(params, plan(folder, card("one")))
    assert (processor.name, read) == ("one", args)
    assert params.clone() == params


@pytest.mark.parametrize(
    "given",
    [7, [7], [len], [{"name": 7}], [{"args": {}}], [{"name": "one", "args": [5]}], [{"name": "one", "more": 1}]],
)
def test_what_is_no_name(given: object) -> None:
    with pytest.raises(RequestError, match="wanted a list of names of logits processors") as refused:
        SamplingParams(logits_processors=given)  # type: ignore[arg-type]
    assert refused.value.param == "logits_processors"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["os:system"], "there is no logits processor 'os:system' here; there are .*one"),
        ([{"name": "one", "args": {"token": -1}}], "the arguments of one: token: .*; it takes token"),
        ([{"name": "one", "args": {"other": 1}}], "the arguments of one: other: "),
    ],
)
def test_what_a_request_cannot_have_is_refused(folder: Path, given: list[object], problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as refused:
        check_logits_processors(SamplingParams(logits_processors=given), plan(folder, card("one")))
    assert refused.value.param == "logits_processors"

"""The parser for scripts: spellings, dotted parts of JSON, and files of flags."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from dovetail.utils import FlexibleArgumentParser
from dovetail.utils.arguments import json_object


def parser() -> FlexibleArgumentParser:
    made = FlexibleArgumentParser(prog="script")
    made.add_argument("model_path", nargs="?", default="none")
    made.add_argument("--max-len", type=int, default=1)
    made.add_argument("--my_name", "-n", default="")
    made.add_argument("--overrides", type=json_object, default={})
    made.add_argument("--fast", action=argparse.BooleanOptionalAction, default=None)
    made.add_argument("--loud", action="store_true")
    made.add_argument("--word", action="append", default=[])
    made.add_argument("--words", nargs="+", default=[])
    made.add_argument("--several", nargs="+", action="extend", default=[])
    return made


def parse(*arguments: str) -> dict[str, Any]:
    return vars(parser().parse_args(arguments))


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        ("--max_len 3", "max_len", 3),
        ("--max_len=3", "max_len", 3),
        ("--my-name a_b", "my_name", "a_b"),
        ("--my_name=--a_b", "my_name", "--a_b"),
        ("--no_fast", "fast", False),
        ("a_b", "model_path", "a_b"),
    ],
)
def test_flags_may_be_spelled_either_way(arguments: str, name: str, value: Any) -> None:
    assert parse(*arguments.split())[name] == value


def test_the_process_s_own_arguments_are_read_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["script", "--max_len", "3", "--overrides.a", "1"])
    found = parser().parse_args()
    assert (found.max_len, found.overrides) == (3, {"a": 1})


def test_subcommands_take_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("overrides: {a: 1}\n")
    made = FlexibleArgumentParser(prog="script")
    sub = made.add_subparsers(dest="command").add_parser("run")
    sub.add_argument("--max-len", type=int)
    sub.add_argument("--overrides", type=json_object)
    found = made.parse_args(["run", "--max_len", "3", "--config", str(file)])
    assert (found.max_len, found.overrides) == (3, {"a": 1})
    assert made.parse_args(["run", "--overrides.b.c", "x"]).overrides == {"b": {"c": "x"}}
    with pytest.raises(SystemExit):
        made.parse_args(["--config", str(file), "run"])
    assert "it stands behind the command's name" in capsys.readouterr().err


def test_errors_are_those_of_argparse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse("--max_len", "many")
    assert left.value.code == 2
    assert "usage: script" in (err := capsys.readouterr().err)
    assert "argument --max-len: invalid int value: 'many'" in err


def test_shortened_flags_are_none() -> None:
    with pytest.raises(SystemExit):
        parse("--max", "3")


# Dotted parts of a JSON flag.


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("--overrides.a 1", {"a": 1}),
        ("--overrides.a=1", {"a": 1}),
        ("--overrides.a one", {"a": "one"}),
        ('--overrides.a "1"', {"a": "1"}),
        ("--overrides.a true --overrides.b null", {"a": True, "b": None}),
        ("--overrides.a [1,2]", {"a": [1, 2]}),
        ("--overrides.a.b_c.d 2.5 --overrides.a.e x", {"a": {"b_c": {"d": 2.5}, "e": "x"}}),
        ('--overrides {"a":{"b":1,"c":2}} --overrides.a.c 3', {"a": {"b": 1, "c": 3}}),
        ('--overrides.a.c 3 --overrides {"a":{"b":1}}', {"a": {"b": 1, "c": 3}}),
        ("--overrides.a 1 --overrides.a.b 2", {"a": {"b": 2}}),
        ("--overrides.a 1 --overrides.a 2", {"a": 2}),
    ],
)
def test_dotted_parts(arguments: str, found: dict[str, Any]) -> None:
    assert parse(*arguments.split())["overrides"] == found


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--overrides.a", "argument --overrides.a: expected one argument"),
        ("--overrides.a 1 --overrides [1]", "argument --overrides: '[1]' is a JSON list"),
        ("--max-len.a 1", "unrecognized arguments: --max-len.a"),
        ("--nope.a=1", "unrecognized arguments: --nope.a=1"),
    ],
)
def test_what_is_no_dotted_part(arguments: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(*arguments.split())
    assert told in capsys.readouterr().err


# Files.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "flags.yaml"


def with_file(file: Path, text: str, *arguments: str) -> dict[str, Any]:
    file.write_text(text)
    return parse("--config", str(file), *arguments)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("max-len: 3", "max_len", 3),
        ("max_len: 3", "max_len", 3),
        ("my-name: -x", "my_name", "-x"),
        ("my_name: 2024-05-01", "my_name", "2024-05-01"),
        ("my_name: null", "my_name", ""),
        ("fast: true", "fast", True),
        ("fast: false", "fast", False),
        ("loud: true", "loud", True),
        ("loud: false", "loud", False),
        ("word: [a, -b]", "word", ["a", "-b"]),
        ("word: a", "word", ["a"]),
        ("words: [a, b]", "words", ["a", "b"]),
        ("several: [a, b]", "several", ["a", "b"]),
        ("overrides: {a: {b: [1, x]}}", "overrides", {"a": {"b": [1, "x"]}}),
        ("overrides.a.b_c: 1\noverrides.d: [x]", "overrides", {"a": {"b_c": 1}, "d": ["x"]}),
        ("model-path: there", "model_path", "there"),
        ("model_path: there", "model_path", "there"),
    ],
)
def test_an_entry_is_a_flag(file: Path, text: str, name: str, value: Any) -> None:
    assert with_file(file, text) == {**parse(), name: value}


@pytest.mark.parametrize(
    ("text", "arguments", "name", "value"),
    [
        ("max-len: 3", "--max-len 5", "max_len", 5),
        ("my-name: a", "-n b", "my_name", "b"),
        ("my-name: a", "-nb", "my_name", "b"),
        ("fast: true", "--no-fast", "fast", False),
        ("word: [a, b]", "--word c", "word", ["c"]),
        ("words: [a, b]", "--words c", "words", ["c"]),
        ("overrides: {a: 1}", "--overrides.b 2", "overrides", {"b": 2}),
        ("model-path: there", "here", "model_path", "here"),
        ("words: [a, b]", "here", "model_path", "here"),
        ("several: [a, b]", "here", "model_path", "here"),
    ],
)
def test_the_command_line_comes_first(file: Path, text: str, arguments: str, name: str, value: Any) -> None:
    assert with_file(file, text, *arguments.split())[name] == value
    assert parse(*arguments.split(), f"--config={file}")[name] == value


def test_the_later_of_two_files_comes_first(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("max-len: 7")
    found = with_file(file, "max-len: 3\nmy-name: x", "--config", str(other))
    assert (found["max_len"], found["my_name"]) == (7, "x")


def test_a_file_leaves_the_parser_as_it_was(file: Path) -> None:
    made = parser()
    file.write_text("model-path: there")
    assert made.parse_args(["--config", str(file)]).model_path == "there"
    assert made.parse_args([]).model_path == "none"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nope: 1", "there is no flag --nope"),
        ("config: other.yaml", "there is no flag --config"),
        ("- a\n- b", "holds a list, wanted entries like max-model-len: 32k"),
        ("", "holds a NoneType, wanted entries"),
        ("a: b: c", "cannot be read: "),
        ("fast: fastest", "'fastest' in the file is neither true nor false"),
        ("max-len: many", "argument --max-len: invalid int value: 'many'"),
    ],
)
def test_a_file_that_does_not_hold(file: Path, text: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        with_file(file, text)
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("arguments", [["--config"], ["--config", "/no/such/file"]])
def test_a_file_that_is_not_there(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(*arguments)
    assert "argument --config: " in capsys.readouterr().err


def test_a_parser_may_do_without_files(capsys: pytest.CaptureFixture[str]) -> None:
    made = FlexibleArgumentParser(config_file=False)
    made.add_argument("--config")
    assert made.parse_args(["--config", "mine"]).config == "mine"
    assert "--config FILE" in " ".join(parser().format_help().split())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_file_may_begin_with_a_byte_order_mark(file: Path, encoding: str) -> None:
    file.write_text("max-len: 3\r\nmy-name: é", encoding=encoding)
    found = parse("--config", str(file))
    assert (found["max_len"], found["my_name"]) == (3, "é")

"""Flags made from the fields of models, and what is refused before anything runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from dovetail.api import UsageError
from dovetail.cli import serve
from dovetail.cli.parsing.parser import CommandParser
from dovetail.engine.args import EngineArgs
from dovetail.server.settings import ServerSettings
from dovetail.utils.arguments import json_object
from dovetail.utils.flags import add_flags, human_int, read_flags


class Options(BaseModel):
    """One field of each type that flags can have."""

    some_text: str = Field("auto", description="a text of 100%")
    maybe_text: str | None = Field(None, description="a text or nothing")
    some_number: int = Field(3, ge=1, description="a count")
    some_share: float = Field(0.5, le=1, description="a share")
    some_switch: bool = Field(False, description="a switch")
    some_names: list[str] = Field([], description="names")
    some_object: dict[str, Any] = Field({}, description="an object")
    some_choice: Literal["this", "that"] = Field("this", description="a choice")
    max_model_len: int | None = Field(None, description="tokens")
    quantization: str | None = Field(None, description="a format")
    hidden: str = Field("", description="has no flag")


def parser() -> CommandParser:
    found = CommandParser(prog="dovetail test")
    found.add_argument("model", nargs="?")
    add_flags(found, Options, "options", skip=("hidden",))
    return found


def read(*arguments: str) -> dict[str, Any]:
    """What was given, as the model has it."""
    return read_flags(Options, parser().parse_args(arguments)).model_dump(exclude_unset=True)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("", {}),
        ("--some-text x", {"some_text": "x"}),
        ("--some_text x", {"some_text": "x"}),
        ("--some_text=a_b", {"some_text": "a_b"}),
        ("--some-text a_b", {"some_text": "a_b"}),
        ("--maybe-text x", {"maybe_text": "x"}),
        ("--some-number 7", {"some_number": 7}),
        ("--some-share .25", {"some_share": 0.25}),
        ("--some-switch", {"some_switch": True}),
        ("--some_switch --no_some_switch", {"some_switch": False}),
        ("--some-names a --some-names c", {"some_names": ["a", "c"]}),
        ('--some-object {"a":{"b":null}}', {"some_object": {"a": {"b": None}}}),
        ("--some-choice that", {"some_choice": "that"}),
        ("--max-model-len 32K", {"max_model_len": 32768}),
        ("--max_model_len auto", {"max_model_len": None}),
        ("-q gguf", {"quantization": "gguf"}),
    ],
)
def test_a_flag(arguments: str, found: dict[str, Any]) -> None:
    assert read(*arguments.split()) == found


def test_what_was_not_given_keeps_the_model_s_default() -> None:
    assert read_flags(Options, parser().parse_args([])) == Options()


def test_what_the_caller_adds_comes_first() -> None:
    assert read_flags(Options, parser().parse_args(["--some-text", "x"]), some_text="y").some_text == "y"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--some-number 0", r"^--some-number is 0: Input should be greater than or equal to 1; see --help$"),
        (
            "--some-number 0 --some-share 2",
            r"^--some-number is 0: .*; --some-share is 2\.0: .*less than or equal to 1; see",
        ),
        ("--some-number x", r"^argument --some-number: invalid int value: 'x'; see dovetail test --help$"),
        ("--some-text", r"^argument --some-text: expected one argument; see dovetail test --help$"),
        ("--some-object {", r"'\{' is not JSON \(Expecting property name.*\); write for example '\{\"key\": 1\}'; see"),
        ("--some-object [1]", r"'\[1\]' is a JSON list, wanted an object like "),
        ("--some-object 5", r"'5' is a JSON int, wanted an object like "),
        ("--some-choice other", r"argument --some-choice: invalid choice: 'other' \(choose from "),
        ("--max-model-len many", r"'many' is not a number of tokens; write 4096, 32k or auto; see"),
        ("--some-tex x", r"^unrecognized arguments: --some-tex; see dovetail test --help$"),
        ("a b", r"^unrecognized arguments: b; see dovetail test --help$"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(arguments: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        read(*arguments.split())
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4096", 4096),
        ("32k", 32_000),
        ("32K", 32_768),
        ("1m", 10**6),
        ("1M", 2**20),
        ("2g", 2 * 10**9),
        ("1G", 2**30),
        ("1.5k", 1500),
        ("1.1k", 1100),
        ("0.5K", 512),
        ("1e3", 1000),
        ("-5", -5),
        ("auto", None),
    ],
)
def test_a_number_of_tokens(text: str, number: int | None) -> None:
    assert human_int(text) == number


@pytest.mark.parametrize(
    "text", ["", "k", "K5", "32kk", "inf", "nan", "0.5", "1.0001k", "32 000 tokens", "Auto", "0x10"]
)
def test_what_is_no_number_of_tokens(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number of tokens; write 4096, 32k or auto"):
        human_int(text)


def test_a_json_object() -> None:
    assert json_object('{"a": [1, {"b": true}]}') == {"a": [1, {"b": True}]}


def test_help_shows_descriptions_and_defaults() -> None:
    text = " ".join(parser().format_help().split())
    assert "--some-text SOME_TEXT a text of 100% (default: auto)" in text
    assert "--some-number N a count (default: 3)" in text
    assert "--some-share X a share (default: 0.5)" in text
    assert "--some-switch, --no-some-switch a switch" in text
    assert "--some-choice {this,that}" in text
    assert "--some-object JSON an object" in text
    assert "--max-model-len TOKENS" in text
    assert "-q QUANTIZATION" in text
    assert "hidden" not in text


@pytest.mark.parametrize("denial", ["-some", "-model:some,-other"])
def test_a_filter_may_begin_with_a_denial(denial: str) -> None:
    found = CommandParser()
    add_flags(found, EngineArgs, "engine", skip=set(EngineArgs.model_fields) - {"plugins", "seed"})
    assert found.parse_args(["--plugins", denial, "--seed", "3"]).plugins == denial
    assert found.parse_args([f"--plugins={denial}"]).plugins == denial
    with pytest.raises(UsageError, match="argument --plugins: expected one argument"):
        found.parse_args(["--plugins", "--seed", "3"])


@pytest.mark.parametrize("model", [EngineArgs, ServerSettings])
def test_every_option_has_a_flag_with_help(model: type[BaseModel]) -> None:
    found = CommandParser()
    add_flags(found, model, "options")
    flags = {action.dest: action for action in found._actions}
    for name, field in model.model_fields.items():
        assert field.description, f"{name} has no description"
        assert flags[name].help, f"{name} has no help"
    assert read_flags(model, found.parse_args([])) == model()


def test_options_of_the_engine_and_of_the_server_do_not_collide() -> None:
    assert not set(EngineArgs.model_fields) & set(ServerSettings.model_fields)


def test_serve_takes_files_of_flags_and_the_model_among_them(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("model: file/model\nport: 9\nmax_model_len: 4k\n")
    made = CommandParser(prog="dovetail serve")
    serve.add_arguments(made)
    found = made.parse_args(["--config", str(file), "--port", "8"])
    assert (found.model, found.port, found.max_model_len) == ("file/model", 8, 4000)
    assert made.parse_args(["given/model", "--config", str(file)]).model == "given/model"
    file.write_text("prot: 9")
    with pytest.raises(UsageError, match=r"there is no flag --prot .*; see dovetail serve --help"):
        made.parse_args(["--config", str(file)])

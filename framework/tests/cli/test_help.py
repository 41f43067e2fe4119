"""``--help``, ``--help=all`` and ``--help=WORD``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dovetail.cli.main import main
from dovetail.cli.parsing.option_groups import COMMON, SERVER
from dovetail.server.settings import ServerSettings

Out = pytest.CaptureFixture[str]


def help_of(capsys: Out, *arguments: str) -> str:
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert not leaving.value.code
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("command", ["serve", "chat", "plan", "run-batch", "bench serve", "bench latency"])
def test_the_short_help_is_a_screenful(command: str, capsys: Out) -> None:
    lines = help_of(capsys, *command.split(), "--help").splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 82
    assert any(line.startswith("  --max-model-len TOKENS ") for line in lines)
    assert "--help=all" in "\n".join(lines)


@pytest.mark.parametrize("command", ["serve", "chat"])
def test_all_shows_every_option_once_in_its_group(command: str, capsys: Out) -> None:
    out = help_of(capsys, command, "--help=all")
    assert out.count("\n  --block-size N ") == 1
    assert "\nwhat to run" in out
    assert "\nhow to run it" in out
    assert out.index("what to run") < out.index("--block-size") < out.index("how to run it") < out.index("--max-loras")


def test_all_shows_what_the_short_help_leaves_out(capsys: Out) -> None:
    short, every = help_of(capsys, "serve", "-h"), help_of(capsys, "serve", "--help=all")
    for name in ServerSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in every
    assert "--sse-ping-interval" not in short


def test_a_group(capsys: Out) -> None:
    out = help_of(capsys, "serve", "--help=web pages")
    assert "--allowed-origins" in out
    assert "--allow-credentials" in out  # whose text has neither word
    assert "--max-loras" not in out


@pytest.mark.parametrize("word", ["lora", "LoRA", "max-lora", "max_lora_rank", "--max-lora-rank"])
def test_a_word_of_names_and_texts(word: str, capsys: Out) -> None:
    out = help_of(capsys, "serve", f"--help={word}")
    assert "--max-lora-rank" in out
    assert "--port" not in out


def test_a_word_of_texts_alone(capsys: Out) -> None:
    assert "--ssl-keyfile" in help_of(capsys, "serve", "--help=private key")


def test_a_command_is_found_by_a_word(capsys: Out) -> None:
    assert "run-batch" in help_of(capsys, "--help=batch")


@pytest.mark.parametrize("command", ["serve", "bench latency", "plan"])
def test_an_unknown_word_says_which_groups_there_are(command: str, capsys: Out) -> None:
    assert main([*command.split(), "--help=zzz"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: no option of dovetail {command} has 'zzz'; the groups are: ")
    assert "what to run" in told


def test_the_groups_name_each_option_once() -> None:
    names = [name for group in SERVER.values() for name in group]
    assert len(names) == len(set(names))
    assert len(COMMON) == len(set(COMMON))


def test_the_help_without_a_command_does_without_pydantic() -> None:
    code = "import sys; from dovetail.cli.main import main\ntry: main(['--help'])\nfinally: print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False"

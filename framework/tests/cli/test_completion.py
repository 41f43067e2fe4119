"""``dovetail completion``: what the shells make of the scripts. Shells that are not installed are skipped."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dovetail.cli.completion import SHELLS
from dovetail.cli.main import COMMANDS, build_parser, main
from dovetail.cli.parsing.command_tree import Command, read_commands
from dovetail.kernel.registry import Registry

BASH = """
source {script}
COMP_WORDS=({words} {last})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_dovetail
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

CASES = [
    ("", "run", {"run-batch"}),
    ("", "se", {"serve"}),
    ("serve", "--po", {"--pooler-config", "--port"}),
    ("serve", "--no-enable-l", {"--no-enable-log-outputs", "--no-enable-lora", "--no-enable-log-requests"}),
    ("serve --dtype bfloat16 --runner", "", {"auto", "generate", "pooling"}),
    ("serve --enable-lora", "mod", {"model.bin"}),
    ("serve --chat-template", "mod", {"model.bin"}),
    ("serve --port", "", set()),
    ("bench", "s", {"serve", "startup"}),
    ("bench serve --dataset-name", "", {"random", "sharegpt", "custom"}),
    ("bench serve", "--goodp", {"--goodput"}),
    ("plugins", "", {"list", "show", "doctor", "new"}),
    ("plugins show", "--js", {"--json"}),
    ("completion", "", set(SHELLS)),
    ("run-batch -i", "mod", {"model.bin"}),
]


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """With the scripts, and a file to complete."""
    for shell in SHELLS:
        assert main(["completion", shell]) == 0
        (tmp_path / shell).write_text(capsys.readouterr().out)
    (tmp_path / "model.bin").touch()
    return tmp_path


def run(folder: Path, *command: str) -> list[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(("before", "last", "wanted"), CASES)
def test_bash(before: str, last: str, wanted: set[str], folder: Path) -> None:
    script = BASH.format(script=folder / "bash", words=f"dovetail {before}", last=f"'{last}'")
    assert set(run(folder, "bash", "--norc", "-c", script)) == wanted


@pytest.mark.parametrize(("before", "last", "wanted"), CASES)
def test_fish(before: str, last: str, wanted: set[str], folder: Path) -> None:
    line = " ".join(["dovetail", *before.split(), last])
    found = run(folder, "fish", "--no-config", "-c", f"source fish; complete -C '{line}'")
    assert {text.partition("\t")[0] for text in found} == wanted


def test_zsh_reads_the_script(folder: Path) -> None:
    done = run(folder, "zsh", "-f", "-c", "compdef() { print $1 for $2 }; source ./zsh; whence -w _dovetail_serve")
    assert done == ["_dovetail for dovetail", "_dovetail_serve: function"]


def commands() -> dict[str, Command]:
    return {" ".join(c.words): c for c in read_commands(build_parser(COMMANDS), Registry.load())}


def test_values_that_plugins_offer_are_those_of_the_installed_ones() -> None:
    flags = {a.names[-1]: a for a in commands()["dovetail serve"].flags}
    assert set(flags["--quantization"].choices) >= {"dense"}
    assert flags["--attention-backend"].choices[0] == "auto"
    assert flags["--tool-call-parser"].choices[:2] == ("auto", "none")


def test_hidden_flags_are_not_offered() -> None:
    assert "--model" not in {name for a in commands()["dovetail serve"].flags for name in a.names}


def test_every_command_is_there() -> None:
    assert {f"dovetail {name}" for name in COMMANDS} < set(commands())

"""The server that a command starts: its command line, and what is said where it does not start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dovetail.cli import connection
from dovetail.cli.connection import build_flags
from dovetail.cli.main import main
from dovetail.engine.args import EngineArgs


def test_flags_are_what_was_given() -> None:
    args = EngineArgs(model="tiny", max_num_batched_tokens=2048, enforce_eager=True, enable_prefix_caching=False)
    assert build_flags(args) == [
        "tiny", "--no-enable-prefix-caching", "--enforce-eager", "--max-num-batched-tokens", "2048",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["complete", "The capital of"],
            "note: 'The capital of' stands where the model belongs; the text to continue is",
        ),
        (["chat", "Hello"], "note: 'Hello' stands where the model belongs; a question is given with --prompt"),
        (["complete", "some/model"], ""),
        (["complete", "here"], ""),
        (["complete", "model", "--prompt", "The capital of"], ""),
        (["complete"], ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_text_where_the_model_belongs(
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @contextlib.contextmanager
    def fail(args: EngineArgs, debug: bool) -> Iterator[str]:
        raise SystemExit(1)
        yield ""

    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(connection, "start_server", fail)
    with pytest.raises(SystemExit):
        main(words)
    err = capsys.readouterr().err
    assert err.startswith(told)
    assert bool(err) == bool(told)

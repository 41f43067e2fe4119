"""``--log-config-file``."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dovetail.api import UsageError
from dovetail.utils import logs


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(logs.LOG_VARIABLE, "")
    monkeypatch.setattr(logs, "_find_request_id", str)
    loggers = [logging.getLogger(), logs.logger]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    logging.captureWarnings(False)
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def config(tmp_path: Path, target: Path, **more: Any) -> str:
    handler = {"class": "logging.FileHandler", "filename": str(target), "formatter": "own"}
    content = {
        "version": 1,
        "formatters": {"own": {"()": "dovetail.utils.logs.JsonFormatter"}},
        "handlers": {"file": handler},
        "loggers": {"dovetail": {"level": "DEBUG", "handlers": ["file"]}},
        **more,
    }
    (tmp_path / "log, config.json").write_text("\ufeff" + json.dumps(content))
    return str(tmp_path / "log, config.json")


def test_the_file_says_how_to_log_here_and_in_children(tmp_path: Path) -> None:
    early = logging.getLogger("dovetail.early")
    target = tmp_path / "out.log"
    logs.configure("text", "error", lambda: "an-id", config(tmp_path, target))
    early.debug("one")
    logs.follow_parent()  # as a child does, by what stands in the environment
    early.debug("two")
    first, second = map(json.loads, target.read_text().splitlines())
    assert (first["message"], first["request_id"], first["level"]) == ("one", "an-id", "debug")
    assert second["message"] == "two"
    assert os.environ[logs.LOG_VARIABLE].startswith("text,error,/")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "holds a JSON list"),
        ("{}", "version"),
        ('{"version": 1, "handlers": {"a": {"class": "no.such.Handler"}}}', "handler 'a'"),
        ('{"version": 1, "root": {"handlers": ["absent"]}}', "absent"),
    ],
)
def test_what_is_no_configuration_is_said_in_one_line(tmp_path: Path, text: str | None, reason: str) -> None:
    file = tmp_path / "log.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError) as error:
        logs.configure("text", "info", config_file=str(file))
    assert f"--log-config-file {file}" in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)

"""The log: its two forms, what it says of requests, and what it must never say."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from server_fakes import FakeEngine, serving

from dovetail.server.observe.request_log import request_id
from dovetail.server.settings import ServerSettings
from dovetail.utils.logs import LOG_VARIABLE, JsonFormatter, TextFormatter

SECRET, PROMPT = "sk-secret", "the words of a prompt"
Lines = Callable[[], list[str]]


@pytest.fixture
def formatter() -> logging.Formatter:
    return JsonFormatter(request_id)


@pytest.fixture
def lines(formatter: logging.Formatter) -> Iterator[Lines]:
    """What was logged so far."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(formatter)
    logger = logging.getLogger("dovetail")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lambda: written.getvalue().splitlines()
    logger.removeHandler(handler)
    logger.setLevel(before)


def ask(engine: FakeEngine, settings: ServerSettings, *bodies: dict[str, Any], path: str = "/v1/completions") -> None:
    headers = {"authorization": f"Bearer {SECRET}", "x-request-id": "given-id"}
    with serving(engine, settings) as url:
        for body in bodies:
            httpx2.post(f"{url}{path}", json={"prompt": PROMPT, **body}, headers=headers)


def test_each_request_has_a_line_with_what_it_took_and_gave(engine: FakeEngine, lines: Lines) -> None:
    ask(engine, ServerSettings(), {"n": 2}, {"stream": True, "max_tokens": 3}, {"model": "unknown"})
    several, stream, refused = map(json.loads, lines())
    for found in (several, stream, refused):
        assert (found["level"], found["logger"], found["request_id"]) == ("info", "dovetail.requests", "given-id")
        assert (found["method"], found["path"], found["route"]) == ("POST", "/v1/completions", "/v1/completions")
        assert found["client"].startswith("127.0.0.1:")
        assert 0 < found["duration"] < 5
        assert found["time"].endswith("+00:00")
    assert (several["status"], several["prompt_tokens"], several["output_tokens"]) == (200, len(PROMPT) + 1, 16)
    assert several["finish_reason"] == "stop"
    assert (stream["output_tokens"], stream["finish_reason"]) == (3, "length")
    assert 0 < stream["ttft"] <= stream["duration"]
    assert refused["status"] == 404
    assert "output_tokens" not in refused


@pytest.mark.parametrize("formatter", [TextFormatter(request_id)])
def test_lines_for_people_say_the_same(engine: FakeEngine, lines: Lines) -> None:
    ask(engine, ServerSettings(), {"max_tokens": 3})
    (line,) = lines()
    assert "INFO POST /v1/completions 200 in 0." in line
    assert f"{len(PROMPT) + 1} tokens in, 3 out, the first after 0." in line
    assert line.endswith("length [given-id]")


@pytest.mark.parametrize("formatter", [TextFormatter(request_id), JsonFormatter(request_id)])
def test_neither_keys_nor_queries_nor_prompts_nor_outputs_are_logged(engine: FakeEngine, lines: Lines) -> None:
    settings = ServerSettings(api_key=[SECRET])
    ask(engine, settings, {}, {"n": "many"}, {"model": PROMPT}, path=f"/v1/completions?key={SECRET}")
    ask(engine, ServerSettings(api_key=["another"]), {})
    engine.fail_at = 1
    ask(engine, settings, {})
    log = "\n".join(lines())
    assert len(log.splitlines()) > 5
    assert SECRET not in log
    assert PROMPT not in log
    assert "Paris" not in log


def test_prompts_are_logged_where_that_is_asked_for(engine: FakeEngine, lines: Lines) -> None:
    settings = ServerSettings(api_key=[SECRET], enable_log_requests=True)
    ask(engine, settings, {"temperature": 0.25})
    asked, ended = map(json.loads, lines())
    assert (asked["logger"], asked["prompt"], asked["prompt_tokens"]) == ("dovetail.prompts", PROMPT, len(PROMPT) + 1)
    assert asked["request_id"] == ended["request_id"] == "given-id"
    assert "temperature=0.25" in asked["params"]
    assert SECRET not in "".join(lines())


def test_prompts_are_cut(engine: FakeEngine, lines: Lines) -> None:
    ask(engine, ServerSettings(enable_log_requests=True, max_log_len=9), {"prompt": [PROMPT, "ab"]})
    first, second, _ = map(json.loads, lines())
    assert first["prompt"] == PROMPT[:8]  # and the token that begins every text, which has none
    assert (second["prompt"], second["prompt_tokens"]) == ("ab", 3)


@pytest.mark.parametrize(
    ("settings", "logged"),
    [
        ({}, ["/health", "/version"]),
        ({"disable_uvicorn_access_log": True}, []),
        ({"disable_access_log_for_endpoints": "/health,/metrics"}, ["/version"]),
    ],
)
def test_lines_can_be_left_out(engine: FakeEngine, lines: Lines, settings: dict[str, Any], logged: list[str]) -> None:
    with serving(engine, ServerSettings(**settings)) as url:
        httpx2.get(f"{url}/health")
        httpx2.get(f"{url}/version")
    assert [json.loads(line)["path"] for line in lines()] == logged


@pytest.mark.parametrize("formatter", [TextFormatter(request_id), JsonFormatter(request_id)])
def test_no_path_passes_for_another_line(engine: FakeEngine, lines: Lines) -> None:
    with serving(engine, ServerSettings()) as url:
        httpx2.get(f"{url}/a%0A2026-01-01%20INFO%20forged%1b[31m")
    (line,) = lines()
    assert "/a%0A2026-01-01%20INFO%20forged%1B" in line


def test_failures_are_logged_with_their_request(engine: FakeEngine, lines: Lines) -> None:
    engine.fail_at = 0
    ask(engine, ServerSettings(), {})
    failure, ended = map(json.loads, lines())
    assert (failure["level"], failure["request_id"]) == ("error", "given-id")
    assert failure["exception"].startswith("Traceback")
    assert "secret detail" in failure["exception"]
    assert ended["status"] == 500


def test_a_server_that_logs_json_writes_nothing_else_to_its_log() -> None:
    script = Path(__file__).parents[1] / "serve_fake.py"
    settings = {"port": 0, "log_format": "json", "uvicorn_log_level": "info"}
    command = [sys.executable, str(script), json.dumps(settings), "dies"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        lines = []
        for line in process.stderr:
            lines.append(json.loads(line))
            if "Dovetail serves fake/model at " in lines[-1]["message"]:
                url = lines[-1]["message"].split(" at ")[1].split()[0]
                httpx2.post(f"{url}/v1/completions", json={"prompt": "a", "max_tokens": 1000})  # during which it dies
            if lines[-1]["message"].startswith("the engine serves again"):
                break
        process.send_signal(signal.SIGTERM)
        lines += map(json.loads, process.stderr)  # not communicate(), which passes by what was read ahead
        process.wait(10)
    finally:
        process.kill()
        process.communicate()
    assert {"dovetail", "dovetail.requests", "uvicorn.error"} <= {line["logger"] for line in lines}
    (death,) = (line for line in lines if line["message"].startswith("the engine died"))
    assert death["level"] == "error"


@pytest.mark.parametrize(("given", "written"), [("json,warning", ["wé"]), ("json,info", ["ï", "wé"]), ("?,?", None)])
def test_processes_that_a_server_starts_log_as_it_does(given: str, written: list[str] | None) -> None:
    code = (
        "import logging; from dovetail.utils import logs; logs.follow_parent(); log = logging.getLogger('dovetail.engine');"
        "log.info('ï'); log.warning('%s', 'wé')"
    )
    environment = {**os.environ, LOG_VARIABLE: given}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8", check=True
    )
    if written is None:  # as without a server
        assert done.stderr == "wé\n"
    else:
        assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == written


@pytest.mark.parametrize("stream", [False, True])
def test_outputs_are_logged_where_that_is_asked_for(engine: FakeEngine, lines: Lines, stream: bool) -> None:
    settings = ServerSettings(enable_log_requests=True, enable_log_outputs=True, max_log_len=7)
    ask(engine, settings, {"n": 2, "stream": stream, "max_tokens": 3})
    asked, *answered, _ = map(json.loads, lines())
    assert [(found["job"], found["choice"]) for found in answered] == [(asked["job"], 0), (asked["job"], 1)]
    for found in answered:
        assert (found["logger"], found["request_id"]) == ("dovetail.prompts", "given-id")
        assert (found["output"], found["output_tokens"], found["finish_reason"]) == ("Paris i", 3, "length")


def test_outputs_are_logged_as_far_as_they_came(engine: FakeEngine, lines: Lines) -> None:
    engine.fail_at = 2
    ask(engine, ServerSettings(enable_log_requests=True, enable_log_outputs=True), {})
    (found,) = [entry for line in lines() if "output" in (entry := json.loads(line))]
    assert (found["output"], found["finish_reason"]) == ("Paris is", None)


def test_outputs_alone_are_not_logged() -> None:
    with pytest.raises(ValueError, match="enable_log_requests"):
        ServerSettings(enable_log_outputs=True)

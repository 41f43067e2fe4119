"""``dovetail serve`` with a chat template that never ends: it serves on, tells who asked, and stops when it is told to."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from ..serving import Server, serving, until
from ..tiny import write_checkpoint

ENDLESS = "{% if messages[0].content == 'hang' %}{{ (9 + messages | length) ** (10 ** 8) }}{% endif %}{{ messages }}"
"""One call of a built-in function, in which no other thread of the process gets its turn."""
ALWAYS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
SAID = {"messages": [{"role": "user", "content": "hang"}], "max_tokens": 1}
HEALTH_SECONDS = 0.1
ROUTES: dict[str, Any] = {
    "/v1/chat/completions": SAID,
    "/v1/messages": SAID,
    "/v1/messages/count_tokens": SAID,
    "/v1/responses": {"input": "hang", "max_output_tokens": 16},
    "/tokenize": SAID,
    "/invocations": SAID,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("tiny"))
    (folder / "endless.jinja").write_text(ENDLESS)
    (folder / "always.jinja").write_text(ALWAYS)
    return folder


def flags(model: Path, template: str, seconds: float) -> tuple[str, ...]:
    return (str(model), "--chat-template", str(model / template), "--chat-template-timeout", str(seconds))


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with serving(*flags(model, "always.jinja", 1), "--shutdown-timeout", "1") as running:
        yield running
        assert not any("Traceback" in line for line in running.log), running.log


def template_processes(server: Server) -> list[psutil.Process]:
    return [p for p in server.family() if p.is_running() and "engine.templates.process" in " ".join(_command(p))]


def busy_processes(server: Server) -> list[psutil.Process]:
    """Those that run a template without end."""
    return [p for p in template_processes(server) if _busy_seconds(p) > 1.5]


def _busy_seconds(process: psutil.Process) -> float:
    try:
        return process.cpu_times().user
    except psutil.NoSuchProcess:
        return 0.0


def start_request(server: Server) -> socket.socket:
    """Send a request whose template does not end. Closing the socket is what a client does that leaves."""
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps(SAID)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    sock = socket.create_connection((host, int(port)))
    sock.sendall(f"{head}\r\n\r\n{body}".encode())
    return sock


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def ask(server: Server, path: str = "/v1/chat/completions", body: Any = SAID) -> httpx2.Response:
    return httpx2.post(server.url + path, json=body, timeout=60)


def ask_in_vain(server: Server) -> None:
    with pytest.raises(httpx2.HTTPError):
        ask(server)


def test_a_template_that_fails_is_told_of_at_the_start_in_a_line(server: Server) -> None:
    until(lambda: any("the model's chat template fails" in line for line in server.log))
    (line,) = (line for line in server.log if "chat template" in line)
    assert "takes more than 1 s" in line
    assert "--chat-template-timeout" in line


@pytest.mark.parametrize("path", ROUTES)
def test_each_route_tells_so_after_the_limit(server: Server, path: str) -> None:
    answer = ask(server, path, ROUTES[path])
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert "the chat template takes more than 1 s" in message
    assert message.isprintable()


@pytest.mark.alone
def test_health_is_quick_meanwhile(server: Server, slowness: Callable[[], float]) -> None:
    limit = HEALTH_SECONDS * slowness()
    with ThreadPoolExecutor(8) as pool, httpx2.Client(base_url=server.url) as client:
        hanging = [pool.submit(ask, server) for _ in range(8)]
        took = []
        while not all(future.done() for future in hanging):
            started = time.perf_counter()
            assert client.get("/health").status_code == 200
            took.append(time.perf_counter() - started)
            time.sleep(0.02)
        assert {future.result().status_code for future in hanging} == {400}
    assert max(took) < limit


def test_it_stops_while_a_template_runs(model: Path) -> None:
    with serving(*flags(model, "endless.jinja", 600), "--shutdown-timeout", "1") as server:
        with start_request(server):
            until(lambda: busy_processes(server), 30)
            (busy,) = busy_processes(server)
        until(lambda: not busy.is_running(), 30)  # its client has left
        answers: list[httpx2.Response] = []
        thread = threading.Thread(target=lambda: answers.append(ask(server)))
        thread.start()
        until(lambda: busy_processes(server), 30)
        others = ask(server, body={**SAID, "messages": [{"role": "user", "content": "Why?"}]})
        assert others.status_code == 200, others.text
        family = server.family()
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert time.monotonic() - started < 15
        thread.join(30)
        assert answers[0].status_code == 503
        assert not [p for p in family if p.is_running()]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell of the parent's death")
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.sweep)])
def test_nothing_is_left_of_a_server_that_was_killed(model: Path, processes: int) -> None:
    with serving(*flags(model, "endless.jinja", 600), "--api-server-count", str(processes)) as server:
        thread = threading.Thread(target=ask_in_vain, args=(server,))
        thread.start()
        until(lambda: busy_processes(server), 30)
        family = server.family()
        assert len(template_processes(server)) >= processes
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(30)
        until(lambda: not [p for p in family if p.is_running()], 30)
        thread.join(30)

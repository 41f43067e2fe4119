"""``dovetail serve --api-server-count 2``: several processes that nobody can tell from one, and what happens when one of them goes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx2
import psutil
import pytest
from safetensors.torch import load_file

from ..serving import Server, serving, until
from ..tiny import write_checkpoint
from ..tiny_lora import ATTENTION, write_adapter

FLAGS = ("--api-server-count", "2", "--served-model-name", "tiny", "--override-generation-config", '{"temperature": 0}')
ENDLESS = {"prompt": "a", "max_tokens": 30_000, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"), max_position_embeddings=32768)


@pytest.fixture(scope="module")
def adapter(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = load_file(checkpoint / "model.safetensors")
    return write_adapter(tmp_path_factory.mktemp("adapter") / "poet", base, targets=ATTENTION, rank=4, seed=1)


@pytest.fixture(scope="module")
def server(checkpoint: Path, adapter: Path) -> Iterator[Server]:
    lora = ("--enable-lora", "--allowed-adapter-path", str(adapter.parent))
    with serving(str(checkpoint), *FLAGS, *lora) as running:
        yield running


def is_worker(process: psutil.Process) -> bool:
    try:
        return "dovetail.server.processes.api_worker" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it has just ended
        return False


def workers(server: Server) -> list[psutil.Process]:
    return [process for process in server.family() if is_worker(process)]


def get(server: Server, path: str) -> httpx2.Response:
    return httpx2.get(server.url + path, timeout=60)


@contextmanager
def one_of_each(server: Server) -> Iterator[dict[str, httpx2.Client]]:
    """A client whose connection is kept, by the number of the process at its other end."""
    with ExitStack() as stack:
        found: dict[str, httpx2.Client] = {}
        while len(found) < 2:
            client = stack.enter_context(httpx2.Client(base_url=server.url, timeout=60))
            found[client.get("/health").headers["x-api-process"]] = client
        yield found


def test_streams_get_what_each_gets_alone_whichever_process_answers(server: Server) -> None:
    answered: set[str] = set()

    def ask(number: int, stream: bool = True) -> str:
        body = {"prompt": f"{number}, {number + 1},", "max_tokens": 24, "ignore_eos": True, "stream": stream}
        answer = httpx2.post(f"{server.url}/v1/completions", json=body, timeout=60)
        answered.add(answer.headers["x-api-process"])
        if not stream:
            return str(answer.json()["choices"][0]["text"])
        events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
        return "".join(choice["text"] for event in events for choice in json.loads(event)["choices"])

    alone = [ask(n, stream=False) for n in range(16)]
    assert len(set(alone)) > 1
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == alone
    assert answered == {"1", "2"}  # of 32 connections


def test_what_one_loads_and_puts_to_sleep_the_other_knows_at_once(server: Server, adapter: Path) -> None:
    with one_of_each(server) as clients:
        for here, there in (("1", "2"), ("2", "1")):
            first, second = clients[here], clients[there]
            loaded = first.post("/v1/load_lora_adapter", json={"lora_name": "poet", "lora_path": str(adapter)})
            assert loaded.status_code == 200, loaded.text
            body = {"model": "poet", "prompt": "once", "max_tokens": 8}
            texts = [each.post("/v1/completions", json=body).json()["choices"][0]["text"] for each in (second, first)]
            assert texts[0] == texts[1]
            again = second.post("/v1/load_lora_adapter", json={"lora_name": "poet", "lora_path": str(adapter)})
            assert again.status_code == 400
            assert second.post("/v1/unload_lora_adapter", json={"lora_name": "poet"}).status_code == 200
            assert first.post("/v1/completions", json=body).status_code == 404
            assert first.post("/sleep").status_code == 200
            assert second.get("/is_sleeping").json() == {"is_sleeping": True}
            assert second.post("/v1/completions", json={**body, "model": "tiny"}).status_code == 503
            assert second.post("/wake_up").status_code == 200
            assert first.post("/v1/completions", json={**body, "model": "tiny"}).status_code == 200


def test_each_describes_the_whole_server(server: Server) -> None:
    with one_of_each(server) as clients, ExitStack() as stack:
        for client in clients.values():
            lines = stack.enter_context(client.stream("POST", "/v1/completions", json=ENDLESS)).iter_lines()
            next(lines)
            stack.callback(lambda lines=lines: None)  # which must live on: it closes the stream when it goes
        with one_of_each(server) as watching:
            until(lambda: all(each.get("/load").json() == {"server_load": 2} for each in watching.values()))
            until(lambda: all(each.get("/stats").json()["running"] == 2 for each in watching.values()))
            models, metrics = (
                [each.get(path).text for each in watching.values()] for path in ("/v1/models", "/metrics")
            )
        assert models[0] == models[1]
        for text in metrics:
            (running,) = (line for line in text.splitlines() if line.startswith("vllm:num_requests_running{"))
            assert float(running.split()[-1]) == 2
    until(lambda: get(server, "/stats").json()["running"] == 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux what a process has loaded")
def test_no_process_but_the_engine_holds_torch(server: Server) -> None:
    for process in server.family():
        holds = any("libtorch" in each.path for each in process.memory_maps())
        assert holds == ("dovetail.engine.process.engine_process" in " ".join(process.cmdline()))


def test_when_a_process_is_killed_the_other_goes_on_and_it_has_a_successor(server: Server) -> None:
    with one_of_each(server) as clients, ExitStack() as stack:
        lines = {
            number: stack.enter_context(client.stream("POST", "/v1/completions", json=ENDLESS)).iter_lines()
            for number, client in clients.items()
        }
        for each in lines.values():
            next(each)
        before = workers(server)
        before[0].kill()
        with pytest.raises(httpx2.RemoteProtocolError):
            list(lines["1"])
        assert next(lines["2"]) is not None
        # What the dead one had asked for is not computed any more.
        until(lambda: get(server, "/stats").json()["running"] == 1)
        until(lambda: get(server, "/load").json() == {"server_load": 1})
        with one_of_each(server) as again:
            answer = again["1"].post("/v1/completions", json={"prompt": "a", "max_tokens": 2})
            assert answer.status_code == 200
        assert next(lines["2"]) is not None
    assert len(workers(server)) == 2
    assert before[1] in workers(server)
    assert sum("API process 1 ended (killed by signal 9)" in line for line in server.log) == 1


def test_a_port_in_use_is_known_before_anything_is_loaded(server: Server, checkpoint: Path) -> None:
    port = server.url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "dovetail", "serve", str(checkpoint), *FLAGS, "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert "loaded " not in done.stderr


def test_when_the_engine_is_killed_all_clients_are_told_and_it_is_started_again_once(checkpoint: Path) -> None:
    def ask() -> str:
        return httpx2.post(f"{server.url}/v1/completions", json=ENDLESS, timeout=60).text

    # The server goes first, and with it what the pool would wait for if this fails.
    with ThreadPoolExecutor(8) as pool, serving(str(checkpoint), *FLAGS) as server, one_of_each(server) as clients:
        family = server.family()
        for life in (1, 2):
            asked = [pool.submit(ask) for _ in range(8)]
            until(lambda: clients["1"].get("/load").json() == {"server_load": 8})
            server.engine().kill()
            for request in asked:
                assert '"code":"engine_dead"' in request.result(5).rstrip().split("\n\n")[-1]
            if life == 1:
                for health in [client.get("/health") for client in clients.values()]:
                    assert (health.status_code, health.json()["error"]["code"]) == (503, "engine_restarting")
                    assert "signal 9" in health.json()["error"]["message"]
                until(lambda: all(client.get("/health").status_code == 200 for client in clients.values()), 60)
                for client in clients.values():
                    assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2}).status_code == 200
        assert server.process.wait(20) == 1
        assert psutil.wait_procs(family, 5)[1] == []
        until(lambda: any("ended while serving: it died again" in line for line in server.log))


def test_when_the_hub_is_killed_nothing_is_left_behind(checkpoint: Path, tmp_path: Path) -> None:
    uds, temporary = tmp_path / "socket", tmp_path / "t"
    temporary.mkdir()
    with serving(str(checkpoint), *FLAGS, "--uds", str(uds), TMPDIR=str(temporary)) as server:
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(uds)), base_url="http://x", timeout=60) as client:
            assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2}).status_code == 200
        family = server.family()
        assert len(family) == 6  # the server, its engine, and two processes, each with one for chat templates
        assert len(list(temporary.glob("dovetail-*"))) == 2  # the engine's socket, and that of the processes
        server.process.kill()
        assert psutil.wait_procs(family, 5)[1] == []
        assert list(temporary.glob("dovetail-*")) == []


def test_told_to_stop_it_drains_even_if_every_process_is_told(checkpoint: Path) -> None:
    body = {"prompt": "a", "max_tokens": 600, "ignore_eos": True, "stream": True}
    with serving(str(checkpoint), *FLAGS, "--shutdown-timeout", "60") as server, one_of_each(server) as clients:
        with ExitStack() as stack:
            running = [
                stack.enter_context(each.stream("POST", "/v1/completions", json=body)) for each in clients.values()
            ]
            lines = [each.iter_lines() for each in running]
            for each in lines:
                next(each)
            family = server.family()
            # Ctrl+C reaches all processes of a terminal, and systemd signals all of a service.
            for process in family:
                process.send_signal(signal.SIGTERM)
            until(lambda: get(server, "/health").status_code == 503)
            refused = httpx2.post(f"{server.url}/v1/completions", json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_stopping")
            for each in lines:
                assert [line for line in each if line][-1] == "data: [DONE]"
        assert server.process.wait(20) == 0
        assert psutil.wait_procs(family, 5)[1] == []


def test_told_twice_it_does_not_wait(checkpoint: Path) -> None:
    with serving(str(checkpoint), *FLAGS, "--shutdown-timeout", "60") as server, one_of_each(server) as clients:
        with clients["2"].stream("POST", "/v1/completions", json=ENDLESS) as running:
            lines = running.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGINT)
            until(lambda: get(server, "/health").status_code == 503)
            told = time.monotonic()
            server.process.send_signal(signal.SIGINT)
            assert "the server is stopping" in [line for line in lines if line][-1]
        assert server.process.wait(20) == 0
        assert time.monotonic() - told < 10


def test_what_a_process_cannot_read_is_the_users_error(checkpoint: Path) -> None:
    command = [sys.executable, "-m", "dovetail", "serve", str(checkpoint), *FLAGS, "--chat-template", "absent.jinja"]
    done = subprocess.run([*command, "--port", "0"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "absent.jinja" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_losing_processes_again_and_again_ends_the_server(server: Server) -> None:
    family = server.family()
    while server.process.poll() is None:
        with suppress(psutil.NoSuchProcess):  # the server, in the end
            for process in workers(server)[:1]:
                process.kill()
                process.wait(5)
        time.sleep(0.3)
    assert server.process.returncode == 1
    assert psutil.wait_procs(family, 5)[1] == []
    until(
        lambda: any(
            re.match(r"error: API process \d ended \(killed by signal 9\), as did 5 before", line)
            for line in server.log
        )
    )

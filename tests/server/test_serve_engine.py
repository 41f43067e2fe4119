"""``dovetail serve`` and its engine: what happens when it is killed, when it has too much to do, and when adapters come and go."""

from __future__ import annotations

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import psutil
import pytest
import torch
from safetensors.torch import load_file

from ..serving import serving, until
from ..tiny import write_checkpoint
from ..tiny_lora import ATTENTION, MLP, write_adapter


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


def test_when_the_engine_is_killed_clients_are_told_and_it_is_started_again_once(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, max_position_embeddings=32768)
    body = {"prompt": "a", "max_tokens": 30_000, "ignore_eos": True}

    def ask(stream: bool) -> tuple[float, httpx2.Response]:
        answer = httpx2.post(f"{server.url}/v1/completions", json={**body, "stream": stream}, timeout=60)
        return time.monotonic(), answer

    with serving(str(folder), "--served-model-name", "tiny") as server, ThreadPoolExecutor() as pool:
        for life in (1, 2):
            asked = [pool.submit(ask, stream) for stream in (True, False, True, False)]
            until(lambda: httpx2.get(f"{server.url}/load").json() == {"server_load": 4})
            time.sleep(0.3)
            server.engine().kill()
            killed = time.monotonic()
            if life == 1:
                until(lambda: not server.healthy(), 2)
                health = httpx2.get(f"{server.url}/health")
                assert health.status_code == 503
                assert health.json()["error"]["code"] == "engine_restarting"
                assert "signal 9" in health.json()["error"]["message"]
                late = httpx2.post(f"{server.url}/v1/completions", json=body)
                assert (late.status_code, late.headers["retry-after"]) == (503, "5")
            for request in asked:
                told, answer = request.result()
                assert told - killed < 2
                if answer.headers["content-type"].startswith("text/event-stream"):
                    assert answer.status_code == 200
                    error = json.loads(answer.text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]
                else:
                    assert answer.status_code == 503
                    error = answer.json()["error"]
                assert (error["type"], error["code"]) == ("server_error", "engine_dead")
                assert "signal 9" in error["message"]
            if life == 1:
                until(server.healthy, 60)
                client = server.client()
                assert client.completions.create(model="tiny", prompt="x", max_tokens=3).usage is not None
        assert server.process.wait(20) == 1
        until(
            lambda: any(line.startswith("error: the engine ended while serving: it died again") for line in server.log)
        )
        # The lines of requests that were refused meanwhile say it, too.
        assert sum("the engine died" in line and "it is being started again" in line for line in server.log) == 1


def test_told_to_stop_while_the_engine_is_started_again_it_leaves(checkpoint: Path) -> None:
    with serving(str(checkpoint)) as server:
        server.engine().kill()
        until(lambda: not server.healthy(), 2)
        family = server.family()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        _, alive = psutil.wait_procs(family, 5)
        assert alive == []


def test_past_the_queue_requests_are_told_to_come_back(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, max_position_embeddings=32768)
    endless = {"prompt": "a", "max_tokens": 30_000, "ignore_eos": True, "stream": True}
    short = {"prompt": "a", "max_tokens": 3}
    flags = ("--max-num-seqs", "1", "--max-num-queued-requests", "1")
    with serving(str(folder), *flags) as server, ThreadPoolExecutor() as pool, httpx2.Client(timeout=60) as http:
        url = f"{server.url}/v1/completions"
        with http.stream("POST", url, json=endless) as running:
            lines = running.iter_lines()  # which must live on: it closes the stream when it goes
            next(lines)
            # One may wait, although nobody answers it while the other runs.
            waiting = pool.submit(httpx2.post, url, json=short, timeout=60)
            until(lambda: httpx2.get(f"{server.url}/load").json() == {"server_load": 2})
            refused = httpx2.post(url, json=short)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "queue_full"
            assert int(refused.headers["retry-after"]) >= 1
        # The client of the one that ran has left, which makes room.
        assert waiting.result(20).status_code == 200
        assert httpx2.post(url, json=short).status_code == 200


def test_a_client_that_leaves_the_queue_frees_its_place(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, max_position_embeddings=32768)
    endless = {"prompt": "a", "max_tokens": 30_000, "ignore_eos": True, "stream": True}
    flags = ("--max-num-seqs", "1", "--max-num-queued-requests", "2")
    with serving(str(folder), *flags) as server, httpx2.Client(timeout=60) as http:
        url = f"{server.url}/v1/completions"
        with http.stream("POST", url, json=endless) as running:
            lines = running.iter_lines()
            next(lines)
            for body in (
                {"prompt": ["a", "b"]},
                {"prompt": "a", "n": 2, "stream": True},
                {"prompt": "a", "best_of": 2},
            ):
                with pytest.raises(httpx2.ReadTimeout):  # it would be 429 if those before had left anything behind
                    httpx2.post(url, json=body, timeout=1)
                until(lambda: httpx2.get(f"{server.url}/load").json() == {"server_load": 1})


def test_adapters_are_models_and_outlive_the_engine(checkpoint: Path, tmp_path: Path) -> None:
    base = load_file(checkpoint / "model.safetensors")
    flag = write_adapter(tmp_path / "flag", base, targets=ATTENTION, rank=4, seed=1)
    later = write_adapter(tmp_path / "later", base, targets=MLP, rank=8, seed=2)
    other = write_adapter(
        tmp_path / "other", {"x.self_attn.q_proj.weight": torch.zeros(8, 8)}, targets=ATTENTION, rank=4, seed=3
    )
    flags = ("--served-model-name", "tiny", "--enable-lora", "--lora-modules", f"flag={flag}")
    flags += ("--allowed-adapter-path", str(tmp_path))
    with serving(str(checkpoint), *flags) as server:
        client = server.client()

        def load(name: str, path: Path) -> httpx2.Response:
            return httpx2.post(f"{server.url}/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(path)})

        def ask(model: str) -> str:
            return client.completions.create(model=model, prompt="once", max_tokens=12, temperature=0).choices[0].text

        def texts() -> list[str]:
            with ThreadPoolExecutor() as pool:
                return list(pool.map(ask, ("tiny", "flag", "later")))

        assert load("later", later).status_code == 200
        for name, path in (("x", tmp_path / "absent"), ("x", other), ("later", later), ("tiny", later)):
            refused = load(name, path)
            assert refused.status_code == 400
            assert refused.json()["error"]["message"]
        assert [(m.id, (m.model_extra or {})["parent"]) for m in client.models.list().data] == [
            ("tiny", None),
            ("flag", "tiny"),
            ("later", "tiny"),
        ]
        before = texts()
        assert len(set(before)) == 3
        server.engine().kill()
        until(lambda: not server.healthy(), 2)
        until(server.healthy, 60)
        assert texts() == before
        assert httpx2.post(f"{server.url}/v1/unload_lora_adapter", json={"lora_name": "later"}).status_code == 200
        with pytest.raises(openai.NotFoundError):
            ask("later")
        assert ask("flag") == before[1]

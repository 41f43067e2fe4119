"""A batch over the application of a fake engine: lines, answers, what goes on, what is told."""

from __future__ import annotations

import asyncio
import io
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from server_fakes import WORDS, FakeEngine

from dovetail.api.errors import DovetailError, EngineDeadError, UsageError
from dovetail.cli.main import main
from dovetail.client import batch as batches
from dovetail.client.batch import Batch, Tally
from dovetail.client.batch_file import BatchInput, BatchOutput, BatchRequest, Fault, read_requests
from dovetail.client.http import ClientError
from dovetail.server.processes.in_process import serve_in_process
from dovetail.server.settings import ServerSettings


def line(custom_id: str = "a", url: str = "/v1/completions", method: str = "POST", **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": method, "url": url, "body": {"prompt": "Hi", "max_tokens": 20} | body}


def encoded(lines: Iterable[Any]) -> list[bytes]:
    return [one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in lines]


def faults(*lines: Any) -> list[tuple[int, str | None, str]]:
    return [(f.number, f.custom_id, f.code) for f in read_requests(encoded(lines)) if isinstance(f, Fault)]


# Lines


def test_a_line_is_sent_as_it_was_written() -> None:
    raw = b'{"custom_id": "x", "body": {"a": 1.50, "b" : [ ]}, "method": "POST", "url": "/v1/responses", "more": 1}'
    assert list(read_requests([b"\n", raw])) == [BatchRequest(2, "x", "/v1/responses", b'{"a": 1.50, "b" : [ ]}')]


@pytest.mark.parametrize(
    ("bad", "name", "code"),
    [
        (b"{\n", None, "invalid_line"),
        (b"\xff\n", None, "invalid_line"),
        (b"[" * 100_000, None, "invalid_line"),
        (b'{"custom_id": "x"}\n', "x", "invalid_line"),
        (b'{"custom_id": 7, "method": "POST", "url": "/v1/completions", "body": {}}\n', None, "invalid_line"),
        (line("x", method="GET"), "x", "invalid_method"),
        (line("x", url="v1/completions"), "x", "invalid_url"),
        (line("x", url="/v1/../sleep"), "x", "invalid_url"),
        (line("x", url="/sleep"), "x", "invalid_url"),
        (line("x", url="/v1/load_lora_adapter"), "x", "invalid_url"),
        (line("x", url="http://other/v1/completions"), "x", "invalid_url"),
        (line("x", stream=True), "x", "invalid_body"),
        (line("a"), "a", "duplicate_custom_id"),
    ],
)
def test_a_bad_line_is_told_by_its_number(bad: Any, name: str | None, code: str) -> None:
    assert faults(line("a"), bad, line("b")) == [(2, name, code)]


@pytest.mark.parametrize(
    "url", ["/v1/chat/completions", "/v1/embeddings", "/v1/score", "/rerank", "/tokenize", "/v1/load_lora_adapters"]
)
def test_routes_that_answer_may_be_asked_for(url: str) -> None:
    assert faults(line(url=url)) == []


# Running


def run(
    engine: FakeEngine,
    lines: Sequence[Any],
    path: Path,
    resume: bool = False,
    concurrency: int = 4,
    settings: ServerSettings | None = None,
) -> Tally:
    """What became of the lines, run as the command does."""

    async def make() -> FakeEngine:
        return engine

    async def work() -> None:
        output = BatchOutput(str(path), resume)
        try:
            async with serve_in_process(make, settings or ServerSettings()) as client:
                batch = Batch(client, output, tally, lambda: None)
                await batch.run(read_requests(encoded(lines), output.done), concurrency)
        finally:
            output.close()

    tally = Tally()
    asyncio.run(work())
    return tally


def entries(path: Path) -> dict[str | None, dict[str, Any]]:
    found = [json.loads(text) for text in path.read_text().splitlines()]
    assert len({entry["id"] for entry in found}) == len(found)
    return {entry["custom_id"]: entry for entry in found}


def test_lines_are_served_by_the_server_s_own_routes(engine: FakeEngine, tmp_path: Path) -> None:
    lines = [
        line("text"),
        {**line("chat", "/v1/chat/completions"), "body": {"messages": [{"role": "user", "content": "Hi"}]}},
        line("wrong", temperature="hot"),
        line("missing", "/v1/nothing"),
        b"no JSON\n",
    ]
    tally = run(engine, lines, tmp_path / "out")
    found = entries(tmp_path / "out")
    assert (tally.served, tally.failed) == (2, 3)
    for name, text in (("text", lambda c: c["text"]), ("chat", lambda c: c["message"]["content"])):
        response = found[name]["response"]
        assert found[name]["error"] is None
        assert response["status_code"] == 200
        assert len(response["request_id"]) > 8
        assert text(response["body"]["choices"][0]) == "".join(WORDS)
    assert found["wrong"]["response"]["status_code"] == 400
    assert found["wrong"]["response"]["body"]["error"]["param"] == "temperature"
    assert found["missing"]["response"]["status_code"] == 404
    assert found[None]["response"] is None
    assert found[None]["error"]["line"] == 5
    assert any("line 3: status 400: temperature" in fault for fault in tally.faults)
    assert engine.stopped


def test_settings_of_the_server_hold(engine: FakeEngine, tmp_path: Path) -> None:
    settings = ServerSettings(served_model_name=["gpt-x"], max_request_bytes=1024)
    tally = run(engine, [line("a", model="gpt-x"), line("b", prompt="x" * 2000)], tmp_path / "out", settings=settings)
    assert tally.served == 1
    assert entries(tmp_path / "out")["b"]["response"]["status_code"] == 413


def test_as_many_run_at_once_as_were_asked_for(engine: FakeEngine, tmp_path: Path) -> None:
    engine.delay = 0.005
    most = 0
    generate = engine.generate

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal most
        async for deltas in generate(*args, **options):
            most = max(most, len(engine.running))
            yield deltas

    engine.generate = counted  # type: ignore[method-assign]
    assert run(engine, [line(str(i)) for i in range(9)], tmp_path / "out", concurrency=3).served == 9
    assert most == 3


def test_a_dead_engine_ends_the_batch_and_what_was_served_stays(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "PAUSE_SECONDS", 0.001)
    generate = engine.generate

    async def mortal(*args: Any, **options: Any) -> Any:
        async for deltas in generate(*args, **options):
            yield deltas
        if len(engine.asked) == 3:
            engine.die()

    engine.generate = mortal  # type: ignore[method-assign]

    async def no_other() -> FakeEngine:
        if engine.dead_reason:
            raise DovetailError("there is no second one")
        return engine

    async def work() -> None:
        output = BatchOutput(str(tmp_path / "out"))
        async with serve_in_process(no_other, ServerSettings()) as client:
            await Batch(client, output, tally, lambda: None).run(read_requests(encoded(lines)), 1)

    lines, tally = [line(str(i)) for i in range(6)], Tally()
    told = "the engine ended while serving: the process was killed; starting it again failed: there is no second one"
    with pytest.raises(EngineDeadError, match=told):
        asyncio.run(work())
    assert tally.served == 3
    assert list(entries(tmp_path / "out")) == ["0", "1", "2"]


# Servers that are busy, and those that fail


class Scripted:
    """A server that gives these answers one after the other."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Tally, list[float]]]:
    """Run one line; the tally, and the pauses."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(batches, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))

    def run_one(*answers: httpx2.Response | Exception) -> tuple[Tally, list[float]]:
        async def work() -> None:
            output = BatchOutput(str(tmp_path / "out"))
            transport = httpx2.MockTransport(Scripted(*answers))
            async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
                await Batch(client, output, tally, lambda: None).run(read_requests(encoded([line()])), 2)
            output.close()

        tally = Tally()
        asyncio.run(work())
        return tally, pauses

    return run_one


Script = Callable[..., tuple[Tally, list[float]]]


def busy(status: int, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, headers=headers, json={"error": {"message": "not now"}})


GOOD = {"choices": []}


def test_a_busy_server_is_asked_again_when_it_says(scripted: Script) -> None:
    answers = [busy(429, **{"Retry-After": "7"})] * 5 + [
        busy(503, **{"Retry-After": "0"}),
        httpx2.Response(200, json=GOOD),
    ]
    tally, pauses = scripted(*answers)
    assert tally.served == 1
    assert pauses == [7.0] * 5 + [1.0]


def test_patience_ends(scripted: Script) -> None:
    tally, pauses = scripted(*[busy(429, **{"Retry-After": "100"})] * 7)
    assert sum(pauses) == 600
    assert tally.faults == ["line 1: status 429: not now"]


def test_a_server_that_serves_no_more_ends_the_batch(scripted: Script, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="serves no more: not now"):
        scripted(*[busy(503)] * 3)
    assert (tmp_path / "out").read_text() == ""


def test_a_server_that_is_not_there_ends_the_batch(scripted: Script) -> None:
    with pytest.raises(ClientError, match="no server answers at http://server"):
        scripted(*[httpx2.ConnectError("refused")] * 3)


def test_a_connection_that_breaks_is_the_line_s_fault_in_the_end(scripted: Script, tmp_path: Path) -> None:
    assert scripted(httpx2.ReadError("reset"), httpx2.Response(200, json=GOOD))[0].served == 1
    (tmp_path / "out").unlink()
    tally, _ = scripted(*[httpx2.ReadError("reset")] * 3)
    assert tally.faults == ["line 1: the connection failed: reset"]
    assert entries(tmp_path / "out")["a"]["error"]["code"] == "connection_error"


def test_an_answer_is_one_line_whatever_its_form(scripted: Script, tmp_path: Path) -> None:
    assert scripted(httpx2.Response(200, content=b'{\n "a": "1\xc3\xa9 2"\n}'))[0].served == 1
    assert entries(tmp_path / "out")["a"]["response"]["body"] == {"a": "1é 2"}
    (tmp_path / "out").unlink()
    tally, _ = scripted(httpx2.Response(200, content=b"<html>"))
    assert tally.faults == ["line 1: the answer, with status 200, is not JSON"]


# Going on


def test_resuming_runs_what_was_not_served(engine: FakeEngine, tmp_path: Path) -> None:
    path = tmp_path / "out"
    lines = [line("a"), line("b", temperature="hot"), line("c")]
    run(engine, lines[:2], path)
    (kept,) = (text for text in path.read_text().splitlines() if '"custom_id":"a"' in text)
    with path.open("a") as file:
        file.write('{"id":"batch_req_1","custom_id":"c","respo')  # the run was killed here
    lines[1] = line("b")
    engine.asked.clear()
    tally = run(engine, lines, path, resume=True)
    assert (tally.served, tally.failed, len(engine.asked)) == (2, 0, 2)
    assert kept in path.read_text().splitlines()
    assert sorted(map(str, entries(path))) == ["a", "b", "c"]
    assert all(entry["response"]["status_code"] == 200 for entry in entries(path).values())
    assert [child.name for child in tmp_path.iterdir()] == ["out"]


def test_an_output_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("precious\n")
    with pytest.raises(UsageError, match="is there already; go on with it by --resume"):
        BatchOutput(str(path))
    with pytest.raises(UsageError, match=r"line 1 of .* is no entry of a batch's output"):
        BatchOutput(str(path), resume=True)
    path.write_text(json.dumps(line()) + "\n")  # an input
    with pytest.raises(UsageError, match="is no entry"):
        BatchOutput(str(path), resume=True)
    assert path.read_text() == json.dumps(line()) + "\n"
    assert [child.name for child in tmp_path.iterdir()] == ["out"]


def test_an_empty_output_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    BatchOutput(str(tmp_path / "out")).close()


# The command, on a server that is there


def command(*arguments: str) -> int:
    return main(["run-batch", *arguments])


def test_the_command_with_a_url(live: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"".join(encoded([line("a"), line("b")])))
    assert command("-i", str(source), "-o", str(out), "--url", f"{live}/v1") == 0
    assert capsys.readouterr().err == "lines served: 2, failed: 0\n"
    assert set(entries(out)) == {"a", "b"}
    source.write_bytes(b"".join(encoded([line("a"), line("b"), line("c", model="other")])))
    assert command("-i", str(source), "-o", str(out), "--url", live, "--resume") == 1
    told = capsys.readouterr().err
    assert told.startswith("lines served: 0, failed: 1\n  line 3: status 404: the model 'other' does not exist")
    assert "with --resume tries the failed ones again" in told


def test_pipes(live: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"".join(encoded([line("a")])))))
    assert command("-i", "-", "-o", "-", "--url", live) == 0
    assert json.loads(capfdbinary.readouterr().out)["custom_id"] == "a"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("-i https://host/in -o out", "-i https://host/in is a URL, and a batch"),
        ("-i in -o s3://bucket/out", "-o s3://bucket/out is a URL, and a batch"),
        ("-i in -o in", "input and output are the same file, in"),
        ("-i in -o out --max-concurrency 0", "--max-concurrency is 0; give 1 or more"),
        ("-i in -o out --url http://h --dtype float32", "--dtype cannot change the server at --url"),
        ("-i in -o out --url http://h --served-model-name m", "--served-model-name cannot change the server at --url"),
        ("-i in -o out --url http://h some/model", "--url and the model some/model were given"),
        ("-i in -o out --api-key k", "--api-key is for the server at --url, and there is none"),
        ("-i - -o - --resume", "--resume was given, and the output goes to a pipe"),
        ("-i in -o out --url ftp://h", "'ftp://h' is not the URL of a server"),
    ],
)
def test_wrong_usage(
    arguments: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").write_bytes(b"{}\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO()))
    assert command(*arguments.split()) == 2
    assert told in capsys.readouterr().err


def test_files_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").touch()
    assert command("-i", str(tmp_path / "gone"), "-o", str(tmp_path / "out"), "--url", "h") == 1
    assert "gone: No such file or directory; correct the path after -i" in capsys.readouterr().err
    assert command("-i", str(tmp_path / "in"), "-o", str(tmp_path / "no" / "out"), "--url", "h") == 1
    assert f"cannot write {tmp_path}/no/out: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "lines"
    text = "".join(json.dumps(line(name, prompt="é"), ensure_ascii=False) + "\r\n" for name in "ab")
    file.write_bytes(text.encode(encoding))
    lines = BatchInput(str(file))
    found = list(read_requests(lines))
    assert lines.count == 2
    assert [(one.number, one.custom_id) for one in found] == [(1, "a"), (2, "b")]
    assert all(isinstance(one, BatchRequest) and json.loads(one.body)["prompt"] == "é" for one in found)


def test_a_full_disk_under_the_output_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out"
    output = BatchOutput(str(path))
    entry = {"id": "a", "custom_id": "one", "response": {"status_code": 200, "body": "x" * 100}, "error": None}
    output.add(entry)
    size = path.stat().st_size
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        with pytest.raises(DovetailError, match=r"cannot write .*go on with --resume"):
            output.add({**entry, "custom_id": "two"})
        output.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    resumed = BatchOutput(str(path), resume=True)
    assert resumed.done == {"one"}
    resumed.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_under_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.open("/dev/full", os.O_WRONLY), "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(DovetailError, match="cannot write standard output: No space left on device"):
            BatchOutput("-").add({"id": "a"})

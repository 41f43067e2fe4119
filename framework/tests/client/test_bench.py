"""``dovetail bench serve`` on a real server over a fake engine, and its parts."""

from __future__ import annotations

import asyncio
import json
import math
import statistics
from collections.abc import Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from server_fakes import FakeEngine, serving

from dovetail.api.errors import UsageError
from dovetail.cli.main import main
from dovetail.client.bench import report
from dovetail.client.bench.datasets import WORDS, Sample, load_samples
from dovetail.client.bench.load_generator import arrival_times
from dovetail.client.bench.metrics import series, summarize
from dovetail.client.bench.metrics import statistics as numbers
from dovetail.client.bench.options import ServeOptions, StartupOptions, read_goodput
from dovetail.client.bench.startup import run_startup
from dovetail.client.bench.stream import EventReader, Outcome
from dovetail.server.settings import ServerSettings

Out = pytest.CaptureFixture[str]
SMALL = ("--num-prompts", "8", "--random-input-len", "5", "--random-output-len", "4", "--random-vocab-size", "250")


def bench(*arguments: str) -> int:
    return main(["bench", "serve", *arguments])


def rows(printed: str) -> dict[str, str]:
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in printed.splitlines())}


# The command


def test_a_benchmark_of_completions(live: str, engine: FakeEngine, tmp_path: Path, capsys: Out) -> None:
    engine.delay = 0.005
    arguments = ("--url", live, *SMALL, "--ignore-eos", "--extra-body", '{"temperature": 0}', "--goodput", "ttft:10000")
    saving = ("--save-result", "--save-detailed", "--result-dir", str(tmp_path / "new"), "--result-filename", "r.json")
    assert bench(*arguments, *saving, "--metric-percentiles", "50,90") == 0
    table = rows(capsys.readouterr().out)
    assert table["Successful requests"] == "8"
    assert table["Failed requests"] == "0"
    assert table["Total input tokens"] == "40"
    assert table["Total generated tokens"] == "32"
    assert float(table["P50 TTFT (ms)"]) == float(table["Median TTFT (ms)"]) >= 5
    assert float(table["P90 E2EL (ms)"]) >= 20
    assert table["Request goodput (req/s)"] == table["Request throughput (req/s)"]
    # The warm-up, and eight.
    assert len(engine.asked) == 9
    assert all(len(prompt) == 5 and min(prompt) >= 250 // 32 for prompt, _ in engine.asked)
    assert {(params.max_tokens, params.ignore_eos, params.temperature) for _, params in engine.asked} == {(4, True, 0)}
    saved = json.loads((tmp_path / "new" / "r.json").read_text())
    assert saved["model_id"] == "fake/model"
    assert saved["request_rate"] == "inf"
    assert saved["output_lens"] == [4] * 8
    assert [len(gaps) for gaps in saved["itls"]] == [3] * 8
    gaps = [(end - first) / 3 for end, first in zip(saved["latencies"], saved["ttfts"], strict=True)]
    assert saved["mean_tpot_ms"] == pytest.approx(1e3 * statistics.mean(gaps))
    assert saved["total_token_throughput"] == pytest.approx(72 / saved["duration"])
    assert statistics.mean(saved["ttfts"]) * 1e3 == pytest.approx(saved["mean_ttft_ms"])


def test_a_benchmark_of_chats(live: str, engine: FakeEngine, capsys: Out) -> None:
    arguments = ("--url", live, *SMALL, "--endpoint", "/v1/chat/completions", "--percentile-metrics", "ttft")
    assert bench(*arguments) == 0
    table = rows(capsys.readouterr().out)
    # What the template adds is part of the prompt, as the server counts it.
    prompts = [prompt for prompt, _ in engine.asked][1:]
    assert int(table["Total input tokens"]) == sum(map(len, prompts))
    assert table["Total generated tokens"] == "32"
    assert "Mean TTFT (ms)" in table
    assert "Mean TPOT (ms)" not in table
    words = engine.tokenizer.decode(prompts[0]).removeprefix("<user>").split()
    assert len(words) == 5
    assert set(words) <= set(WORDS)


def test_no_more_are_in_flight_than_may_be(live: str, engine: FakeEngine, capsys: Out) -> None:
    engine.delay = 0.005
    assert bench("--url", live, *SMALL, "--max-concurrency", "2") == 0
    table = rows(capsys.readouterr().out)
    assert table["Peak concurrent requests"] == "2"
    assert table["Maximum request concurrency"] == "2"


def test_requests_keep_to_their_rate(live: str, capsys: Out) -> None:
    assert bench("--url", live, *SMALL, "--request-rate", "40", "--seed", "3") == 0
    table = rows(capsys.readouterr().out)
    assert float(table["Benchmark duration (s)"]) >= 8 / 40
    assert table["Request rate configured (RPS)"] == "40.00"


def test_failures_are_counted_and_told(live: str, engine: FakeEngine, capsys: Out) -> None:
    generate = engine.generate

    async def moody(request_id: str, *args: Any, **options: Any) -> Any:
        engine.fail_at = 2 if len(engine.asked) in (3, 4) else -1
        async for deltas in generate(request_id, *args, **options):
            yield deltas

    engine.generate = moody  # type: ignore[method-assign]
    assert bench("--url", live, *SMALL, "--max-concurrency", "1") == 0
    out, err = capsys.readouterr()
    assert rows(out)["Failed requests"] == "2"
    assert rows(out)["Successful requests"] == "6"
    assert err.count("failed: the server failed: internal error") == 2


def test_all_failing_is_exit_code_1(engine: FakeEngine, capsys: Out) -> None:
    generate = engine.generate

    async def once(request_id: str, *args: Any, **options: Any) -> Any:
        if engine.asked:
            raise RuntimeError
        async for deltas in generate(request_id, *args, **options):
            yield deltas

    engine.generate = once  # type: ignore[method-assign]
    with serving(engine, ServerSettings(api_key=["k"])) as url:
        assert bench("--url", url, *SMALL, "--api-key", "k") == 1
    out, err = capsys.readouterr()
    assert rows(out)["Failed requests"] == "8"
    assert rows(out)["Mean TTFT (ms)"] == "0.00"
    assert err.count("failed: status 500: internal error") == 5
    assert "and 3 more failed" in err


def test_what_keeps_a_benchmark_from_beginning(live: str, capsys: Out) -> None:
    assert bench("--url", "127.0.0.1:9", "--num-prompts", "2") == 1
    assert "no server answers at http://127.0.0.1:9" in capsys.readouterr().err
    assert bench("--url", live, "other-model", *SMALL) == 1
    assert "the first request to " in (told := capsys.readouterr().err)
    assert "status 404: the model 'other-model' does not exist" in told
    assert bench("--url", live, "one", "--model", "two") == 2
    assert "two models were named" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--num-prompts 0", "--num-prompts is 0: Input should be greater than 0"),
        ("--goodput ttft", "--goodput has 'ttft'; write METRIC:MILLISECONDS"),
        ("--goodput itl:3", "--goodput has 'itl:3'"),
        ("--percentile-metrics ttft,foo", "--percentile-metrics has foo; choose from ttft, tpot, itl, e2el"),
        ("--metric-percentiles 50,x", "--metric-percentiles is '50,x'; write for example 50,90,99"),
        ("--metric-percentiles 101", "--metric-percentiles is '101'"),
        ("--dataset-name custom", "the dataset custom needs --dataset-path"),
        ("--dataset-path x", "the dataset random takes no --dataset-path"),
        (
            "--dataset-name custom --dataset-path x --random-input-len 3",
            "--random-input-len says nothing of the dataset",
        ),
        ("--save-detailed", "--save-detailed needs --save-result"),
        ("--burstiness 2", "--burstiness needs a finite --request-rate"),
        ("--dataset-name custom --dataset-path /no/such", "cannot read /no/such: No such file"),
    ],
)
def test_wrong_usage(live: str, arguments: str, told: str, capsys: Out) -> None:
    assert bench("--url", live, *arguments.split()) == 2
    assert told in capsys.readouterr().err


def test_starts_are_timed(live: str, engine: FakeEngine, tmp_path: Path, capsys: Out) -> None:
    engine.delay = 0.01

    @contextmanager
    def start() -> Any:
        yield live

    assert run_startup(start, StartupOptions(num_iters=2, output_json=str(tmp_path / "s.json"))) == 0
    assert "first token: median" in capsys.readouterr().out
    saved = json.loads((tmp_path / "s.json").read_text())
    assert len(saved["ready_seconds"]) == 2
    assert all(b > a + 0.01 for a, b in zip(saved["ready_seconds"], saved["first_token_seconds"], strict=True))


# Datasets


async def by_words(text: str) -> int:
    return len(text.split())


def load(options: ServeOptions) -> tuple[list[Sample], Sample]:
    return asyncio.run(load_samples(options, by_words))


def test_random_prompts_follow_from_the_seed() -> None:
    options = ServeOptions(num_prompts=50, random_input_len=20, random_output_len=10, random_range_ratio=0.5)
    samples, _ = load(options)
    assert (samples, len(samples)) == (load(options)[0], 50)
    assert samples != load(options.model_copy(update={"seed": 1}))[0]
    assert {10, 30} >= {min(s.input_len for s in samples), max(s.input_len for s in samples)} - set(range(11, 30))
    assert len({s.input_len for s in samples}) > 5
    assert all(len(s.prompt) == s.input_len for s in samples)
    assert all(5 <= s.output_len <= 15 for s in samples)


def test_a_custom_file(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"prompt": "one", "output_tokens": 7}\n\n{"prompt": "two"}\n{"prompt": "three"}\n')
    options = ServeOptions(dataset_name="custom", dataset_path=str(path), num_prompts=2, custom_output_len=9)
    assert [(s.prompt, s.output_len) for s in load(options)[0]] == [("one", 7), ("two", 9)]
    with pytest.raises(UsageError, match=r"--num-prompts is 4, and .* has 3 that can be used"):
        load(options.model_copy(update={"num_prompts": 4}))
    path.write_text('{"prompt": 3}\n')
    with pytest.raises(UsageError, match=r"line 1 of .* is no JSON object with a text named prompt"):
        load(options)


def test_sharegpt_s_conversations(tmp_path: Path) -> None:
    path = tmp_path / "s.json"

    def entry(*lengths: int) -> dict[str, Any]:
        return {"conversations": [{"from": "human", "value": "w " * length} for length in lengths]}

    path.write_text(
        json.dumps([entry(5, 6, 9), entry(5), entry(3, 50), entry(50, 3), entry(1025, 9), entry(1000, 1100)])
    )
    options = ServeOptions(dataset_name="sharegpt", dataset_path=str(path), num_prompts=1)
    assert [(s.input_len, s.output_len) for s in load(options)[0]] == [(5, 6)]
    with pytest.raises(UsageError, match="has 1 that can be used"):
        load(options.model_copy(update={"num_prompts": 2}))
    longer = options.model_copy(update={"sharegpt_output_len": 20, "num_prompts": 3})
    assert sorted((s.input_len, s.output_len) for s in load(longer)[0]) == [(5, 20), (50, 20), (1000, 20)]
    path.write_text('{"a": 1}')
    with pytest.raises(UsageError, match="is not ShareGPT's JSON"):
        load(options)


def test_arrivals() -> None:
    assert arrival_times(3, math.inf, 1.0, 0) == [0.0] * 3
    times = arrival_times(4000, 50.0, 1.0, 0)
    assert times == sorted(times)
    assert times[-1] == pytest.approx(80)
    assert times != arrival_times(4000, 50.0, 1.0, 1)

    def spread(burstiness: float) -> float:
        found = arrival_times(4000, 50.0, burstiness, 0)
        gaps = [b - a for a, b in pairwise(found)]
        return statistics.stdev(gaps) / statistics.mean(gaps)

    assert spread(1.0) == pytest.approx(1.0, abs=0.1)
    assert spread(100.0) == pytest.approx(0.1, abs=0.02)
    assert spread(0.25) == pytest.approx(2.0, abs=0.3)


# Figures


def outcome(started: float, *times: float, error: str = "") -> Outcome:
    return Outcome(started, 10, list(times), len(times), True, error)


def test_figures_of_what_was_served() -> None:
    outcomes = [outcome(0.0, 0.1, 0.2, 0.4), outcome(0.3, 0.4), outcome(0.4, 1.5, 1.6), outcome(9.0, error="no")]
    found = summarize(outcomes, 2.0, {"ttft": 500.0, "tpot": 140.0})
    assert found == {
        "duration": 2.0,
        "completed": 3,
        "failed": 1,
        "total_input_tokens": 30,
        "total_output_tokens": 6,
        "request_throughput": 1.5,
        # The first waits 150 ms for each further token, the third 1.1 s for its first.
        "request_goodput": 0.5,
        "output_throughput": 3.0,
        "total_token_throughput": 18.0,
        "max_output_tokens_per_s": 4.0,
        "max_concurrent_requests": 2,
    }
    values = series(outcomes)
    assert values["ttft"] == pytest.approx([100, 100, 1100])
    assert values["tpot"] == pytest.approx([150, 100])
    assert values["itl"] == pytest.approx([100, 200, 100])
    assert values["e2el"] == pytest.approx([400, 100, 1200])
    assert summarize(outcomes, 2.0, {})["request_goodput"] is None


def test_statistics() -> None:
    assert numbers([1.0, 2.0, 6.0], [50, 99.5]) == pytest.approx(
        {"mean": 3.0, "median": 2.0, "std": math.sqrt(14 / 3), "p50": 2.0, "p99.5": 5.96}
    )
    assert numbers([], [99]) == {"mean": 0, "median": 0, "std": 0, "p99": 0}


def test_goodput_is_read() -> None:
    assert read_goodput(["ttft:200", "tpot:0.5"]) == {"ttft": 200, "tpot": 0.5}


def test_a_result_s_name_says_what_it_is() -> None:
    options = ServeOptions(request_rate=2.5, max_concurrency=8, endpoint="/v1/chat/completions", result_dir="r")
    path = report.result_path(options, {"model_id": "org/name", "date": "D"})
    assert str(path) == "r/openai-chat-2.5qps-concurrency8-name-D.json"


# Streams

STREAM = (
    b': a comment\n\ndata: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\r\n\r\n'
    b'data: {"choices": [{"index": 0, "delta": {"content": "\xc3\xa9"}}], "usage": null}\n\n'
    b'data: {"choices": [{"index": 0, "delta": {"reasoning_content": "x"}, "finish_reason": null}]}\n\n'
    b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}\n\ndata: [DONE]\n\n'
)


def cut(size: int) -> Sequence[bytes]:
    return [STREAM[i : i + size] for i in range(0, len(STREAM), size)]


@pytest.mark.parametrize("size", [1, 7, 64, len(STREAM)])
def test_tokens_are_found_wherever_the_stream_is_cut(size: int) -> None:
    found = Outcome(0.0, 99)
    reader = EventReader(found)
    for piece in cut(size):
        reader.feed(piece)
    assert reader.done
    # The piece that only opens the answer is no token.
    assert len(found.times) == 3
    assert (found.input_len, found.output_len, found.counted) == (3, 5, True)


def test_an_error_in_a_stream_is_told() -> None:
    with pytest.raises(ValueError, match="the server failed: too hot"):
        EventReader(Outcome(0.0, 0)).feed(b'data: {"error": {"message": "too hot"}}\n\n')


def against(answer: bytes, *arguments: str) -> int:
    """A benchmark of a server that gives this answer to everything, and closes."""

    async def work() -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            writer.write(answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            return await asyncio.to_thread(bench, "--url", f"127.0.0.1:{port}", "m", "--num-prompts", "2", *arguments)

    return asyncio.run(work())


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
TOKEN = b'data: {"choices": [{"index": 0, "text": "x"}]}\n\n'


def test_a_server_without_usage_is_measured_by_its_pieces(capsys: Out) -> None:
    assert against(HEAD + TOKEN * 3 + b"data: [DONE]\n\n", "--random-input-len", "7") == 0
    out, err = capsys.readouterr()
    assert rows(out)["Total generated tokens"] == "6"
    assert rows(out)["Total input tokens"] == "14"
    assert "the server tells no usage" in err


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (HEAD + TOKEN, "the answer broke off"),
        (HEAD + b"data: [DONE]\n\n", "the answer has no token"),
        (HEAD + b"data: {\n\n", "truncated"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\noops", "status 502: oops"),
        (b"", "disconnected"),
    ],
)
def test_a_server_that_does_not_work_is_told_at_once(answer: bytes, told: str, capsys: Out) -> None:
    assert against(answer) == 1
    captured = capsys.readouterr()
    assert "/v1/completions failed: " in captured.err
    assert told in captured.err
    assert not captured.out

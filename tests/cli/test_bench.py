"""``dovetail bench`` as its users meet it: the commands, a tiny model, servers of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dovetail.cli.main import main

from ..tiny import write_checkpoint

Out = pytest.CaptureFixture[str]


def bench(name: str, model: str, flags: str, *more: str) -> int:
    return main(["bench", name, model, *flags.split(), *more])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("tiny")))


def test_a_server_of_its_own(checkpoint: str, tmp_path: Path, capfd: Out) -> None:
    small = "--num-prompts 6 --random-input-len 40 --random-output-len 9 --random-vocab-size 250 --ignore-eos --max-num-seqs 4"
    saving = ["--save-result", "--save-detailed", "--result-dir", str(tmp_path), "--result-filename", "r.json"]
    assert bench("serve", checkpoint, small, *saving) == 0
    out = capfd.readouterr().out
    assert "Successful requests:                     6\n" in out
    saved = json.loads((tmp_path / "r.json").read_text())
    assert (saved["input_lens"], saved["output_lens"]) == ([40] * 6, [9] * 6)
    assert saved["total_output_tokens"] == 54
    assert 0 < saved["median_ttft_ms"] < saved["median_e2el_ms"]


def test_sharegpt_s_lengths_come_from_the_server(checkpoint: str, tmp_path: Path, capfd: Out) -> None:
    path = tmp_path / "s.json"
    turns = [{"from": "human", "value": "one two three"}, {"from": "gpt", "value": "four five"}]
    path.write_text(json.dumps([{"conversations": turns}]))
    arguments = "--dataset-name sharegpt --num-prompts 1 --ignore-eos --dataset-path"
    assert bench("serve", checkpoint, arguments, str(path)) == 0
    # Its tokenizer has a token for each byte.
    assert "Total input tokens:                      13\n" in (out := capfd.readouterr().out)
    assert "Total generated tokens:                  9\n" in out


def test_latency(checkpoint: str, tmp_path: Path, capsys: Out) -> None:
    path = tmp_path / "l.json"
    arguments = "--input-len 16 --output-len 5 --batch-size 2 --num-iters 3 --num-iters-warmup 1"
    assert bench("latency", checkpoint, arguments, "--output-json", str(path)) == 0
    saved = json.loads(path.read_text())
    assert len(saved["latencies"]) == 3
    assert saved["avg_latency"] == pytest.approx(sum(saved["latencies"]) / 3)
    out = capsys.readouterr().out
    assert f"Avg latency: {saved['avg_latency']:.4f} seconds\n" in out
    assert f"90% percentile latency: {saved['percentiles']['90']:.4f} seconds\n" in out


def test_throughput(checkpoint: str, tmp_path: Path, capsys: Out) -> None:
    path = tmp_path / "t.json"
    arguments = "--input-len 16 --output-len 5 --num-prompts 7"
    assert bench("throughput", checkpoint, arguments, "--output-json", str(path)) == 0
    saved = json.loads(path.read_text())
    assert (saved["num_requests"], saved["total_num_tokens"]) == (7, 7 * 21)
    assert saved["tokens_per_second"] == pytest.approx(7 * 21 / saved["elapsed_time"])
    assert "Total num prompt tokens: 112\nTotal num output tokens: 35\n" in capsys.readouterr().out


def test_lengths_that_do_not_fit_are_told(checkpoint: str, capsys: Out) -> None:
    assert bench("latency", checkpoint, "--input-len 600") == 1
    assert "error: " in (told := capsys.readouterr().err)
    assert "600" in told


def test_startup(checkpoint: str, tmp_path: Path, capfd: Out) -> None:
    path = tmp_path / "s.json"
    assert bench("startup", checkpoint, "--num-iters 1 --output-json", str(path)) == 0
    saved = json.loads(path.read_text())
    assert 0 < saved["ready_seconds"][0] < saved["first_token_seconds"][0]
    assert "ready: median" in capfd.readouterr().out

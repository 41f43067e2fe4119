"""Commands in a folder of a stranger: a checkpoint, and beside it a module of every name that could be imported."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from ..serving import serving
from ..tiny import write_checkpoint

DOVETAIL = str(Path(sys.executable).with_name("dovetail"))
EVERYWHERE = {"sitecustomize", "usercustomize", "flash_attn", "xformers", "orjson", "torch_npu", "readline", "dovetail"}
"""Beside the modules that are there: what Python and libraries would import if it were there."""
WRITE = "open({log!r}, 'a').write(__name__ + '\\n')\nraise SystemError('this was executed')\n"
SCRIPT = """
import asyncio
from dovetail import AsyncEngineArgs, AsyncLLM, SamplingParams

async def main():
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model="."))
    async for output in engine.generate("a", SamplingParams(max_tokens=2, ignore_eos=True), "1"):
        pass
    print(len(output.outputs[0].token_ids), "tokens")
    engine.shutdown()

if __name__ == "__main__":
    asyncio.run(main())
"""


class Folder:
    """The stranger's folder. Its modules write their names to a file outside of it."""

    def __init__(self, path: Path, log: Path) -> None:
        self.path, self.log = path, log

    def executed(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    found = Folder(write_checkpoint(tmp_path_factory.mktemp("stranger")), tmp_path_factory.mktemp("log") / "executed")
    installed = importlib.metadata.packages_distributions().keys()
    for name in sorted({*sys.stdlib_module_names, *installed, *EVERYWHERE}):
        if name.isidentifier():
            (found.path / f"{name}.py").write_text(WRITE.format(log=str(found.log)))
    return found


@pytest.fixture(autouse=True)
def in_folder(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder.path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    folder.log.unlink(missing_ok=True)
    yield
    assert folder.executed() == []


def run(*command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=stdin, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def as_module(folder: Folder) -> Iterator[list[str]]:
    """``python -m``, in the folder without what Python imports from there before any line of ours."""
    imported = run(sys.executable, "-I", "-c", "import sys, runpy; print(*sys.modules)").stdout.split()
    hidden = [path for name in ("dovetail", *imported) if (path := folder.path / f"{name}.py").exists()]
    assert len(hidden) < 50
    for path in hidden:
        path.rename(path.with_suffix(".txt"))
    yield [sys.executable, "-m"]
    for path in hidden:
        path.with_suffix(".txt").rename(path)


def test_the_folder_executes_what_python_finds_there(folder: Folder) -> None:
    for name in ("torch", "typing", "dovetail"):
        run(sys.executable, "-c", f"import {name}")
    assert folder.executed() == ["torch", "typing", "dovetail"]
    folder.log.unlink()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_serve(processes: str) -> None:
    with serving(".", "--api-server-count", processes, program=(DOVETAIL,)) as server:
        body = {"prompt": "a", "max_tokens": 2, "ignore_eos": True}
        answer = httpx2.post(f"{server.url}/v1/completions", json=body, timeout=60)
        assert answer.json()["usage"]["completion_tokens"] == 2
        for process in server.family()[1:]:
            assert process.environ()["PYTHONSAFEPATH"] == "1"


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("dovetail", ["plan", "."]),
        ("dovetail.cli.main", ["plan", "."]),
        ("dovetail.server.openai", ["--model", ".", "--port", "-1"]),
        ("dovetail.entrypoints.openai.api_server", ["--model", ".", "--port", "-1"]),
    ],
)
def test_modules_that_are_commands(as_module: list[str], module: str, arguments: list[str]) -> None:
    done = run(*as_module, module, *arguments)
    assert ("LlamaForCausalLM" in done.stdout) if "plan" in arguments else ("--port" in done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_serve_as_a_module(as_module: list[str]) -> None:
    with serving(".") as server:
        assert server.healthy()


@pytest.mark.parametrize(
    "arguments", [["plan", "."], ["plugins", "list"], ["bench", "latency", ".", "--num-iters", "1"]]
)
def test_commands(arguments: list[str]) -> None:
    if arguments[0] == "bench":
        arguments = [
            *arguments,
            "--num-iters-warmup",
            "0",
            "--input-len",
            "4",
            "--output-len",
            "2",
            "--batch-size",
            "1",
        ]
    done = run(DOVETAIL, *arguments)
    assert done.returncode == 0, done.stderr


def test_complete() -> None:
    done = run(DOVETAIL, "complete", ".", "--max-tokens", "2", stdin="a")
    assert done.returncode == 0, done.stderr


def test_run_batch(tmp_path: Path) -> None:
    line = {"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "a", "max_tokens": 2}}
    (tmp_path / "in").write_text(json.dumps(line))
    done = run(DOVETAIL, "run-batch", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), ".")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out").read_text())["response"]["status_code"] == 200


def test_the_engine_of_a_script_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run(sys.executable, str(tmp_path / "script.py"))
    assert "2 tokens" in done.stdout, done.stderr


def test_an_empty_element_of_pythonpath_is_nobody_s_wish(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without those that Python itself looks for before any line of ours.
    for name in ("torch", "typing", "json", "zmq", "tokenizers"):
        (tmp_path / f"{name}.py").write_text((folder.path / f"{name}.py").read_text())
    monkeypatch.chdir(tmp_path)
    with serving(str(folder.path), PYTHONPATH=f":{tmp_path / 'other'}") as server:
        assert server.healthy()
    for value in ("", ":", "::"):
        assert run(sys.executable, "-m", "dovetail", "plan", str(folder.path), PYTHONPATH=value).returncode == 0

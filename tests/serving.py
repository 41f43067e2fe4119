"""``dovetail serve`` in a process of its own, for tests to talk to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import openai
import psutil


@dataclass
class Server:
    """
    Attributes:
        seconds: until it was ready.
        log: what it said on standard error since.
    """

    process: subprocess.Popen[str]
    url: str
    seconds: float
    log: list[str]

    def client(self, **options: object) -> openai.OpenAI:
        return openai.OpenAI(
            **{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, "timeout": 120, **options}
        )  # type: ignore[arg-type]

    def family(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def engine(self) -> psutil.Process:
        (engine,) = (p for p in self.family() if "dovetail.engine.process.engine_process" in command_of(p))
        return engine

    def healthy(self) -> bool:
        return httpx2.get(f"{self.url}/health").status_code == 200


def command_of(process: psutil.Process) -> str:
    """The command line; empty for a process that has ended, and is about to be waited for."""
    try:
        return " ".join(process.cmdline())
    except psutil.ZombieProcess:
        return ""


@contextmanager
def serving(
    *arguments: str, program: Sequence[str] = (sys.executable, "-m", "dovetail"), **environment: str
) -> Iterator[Server]:
    """
    Args:
        environment: what is to be different in it.
    """
    address = () if "--uds" in arguments else ("--port", "0")
    command = [*program, "serve", *address, *arguments]
    started = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        found = re.search(r"(https?://127\.0\.0\.1:\d+|unix:\S+)", line)
        assert found, line + process.stderr.read()
        # It must not wait for a reader of what it says.
        log: list[str] = []
        threading.Thread(target=log.extend, args=(process.stderr,), daemon=True).start()
        yield Server(process, found[0], time.monotonic() - started, log)
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)

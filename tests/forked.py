"""Programs in forks of a process that has imported what they need, for tests that run one many times: each takes a fifth of a start's time.

A fork is a process of its own as the program's is, with its arguments, environment, output and exit, but for what happens while modules are imported.
Tests of that start the program itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

PARENT = """
import gc, json, os, signal, sys
imports, program = sys.argv[1:]
names = {"__name__": "__main__"}
exec(imports, names)
gc.freeze()
while True:
    if not (line := sys.stdin.readline()):
        os._exit(0)
    request = json.loads(line)
    if not (pid := os.fork()):
        break
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
for number, name in enumerate((os.devnull, request["stdout"], request["stderr"])):
    file = os.open(name, os.O_RDWR | os.O_CREAT)
    os.dup2(file, number)
    os.close(file)
os.environ.update(request["environment"])
os.chdir(request["folder"])
sys.argv = request["command"]
signal.alarm(request["seconds"])
exec(program, names)
"""

SERVER = """
import sys
import dovetail.cli.serve
import dovetail.engine.process.async_engine
import dovetail.engine.setup
import dovetail.engine.text.hf_tokenizer
import dovetail.server.processes.run
from dovetail.cli.main import main
"""
DOVETAIL = "sys.exit(main())"

KIT = """
import contextlib, os, sys
import pytest
import dovetail.testing
# This imports its parts.
with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
    pytest.main(["--version", "-c", os.devnull])
"""
PYTEST = """
sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
sys.exit(pytest.main(sys.argv[1:]))
"""
"""As ``python -m pytest``."""


class Forks:
    """Runs commands one after the other."""

    def __init__(self, parent: subprocess.Popen[str], folder: Path) -> None:
        self.parent = parent
        self.folder = folder

    def run(
        self, command: Sequence[str | Path], *, seconds: int = 60, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """One command, which begins with the program's name.

        Args:
            seconds: after which it is ended by SIGALRM.
            cwd: its working directory; by default, this process's.
            environment: what is to be different in it.
        """
        words = list(map(str, command))
        streams = [self.folder / name for name in ("stdout", "stderr")]
        for file in streams:
            file.write_text("")
        request = {
            "command": words,
            "stdout": str(streams[0]),
            "stderr": str(streams[1]),
            "environment": environment,
            "folder": str(cwd or Path.cwd()),
            "seconds": seconds,
        }
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        print(json.dumps(request), file=self.parent.stdin, flush=True)
        code = int(self.parent.stdout.readline())
        return subprocess.CompletedProcess(words, code, *(file.read_text() for file in streams))


@contextmanager
def forks(
    imports: str = SERVER, program: str = DOVETAIL, *, options: Sequence[str] = (), **environment: str
) -> Iterator[Forks]:
    """
    Args:
        imports: code that the parent runs once. It may not start threads, which forks would lack.
        program: code that each fork runs, with the names of ``imports``.
        options: of the interpreter.
        environment: what is to be different in it, for all commands.
    """
    command = [sys.executable, *options, "-c", PARENT, imports, program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen(command, text=True, env=os.environ | environment, **pipes) as parent,  # type: ignore[call-overload]
    ):
        yield Forks(parent, Path(folder))

"""The process that runs chat templates: what it answers, its limits, and when it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dovetail.api import RequestError
from dovetail.engine.templates import calls
from dovetail.engine.templates.calls import Answer, RenderCall, render_fields
from dovetail.engine.templates.facts import TemplateFacts
from dovetail.engine.templates.rendered_prompt import RenderedPrompt

MODULE = "dovetail.engine.templates.process"
HEAVY = ("torch", "pydantic", "fastapi", "tokenizers", "numpy", "zmq", "asyncio", "starlette", "transformers")
MESSAGES = [{"role": "user", "content": "Why?"}]
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


class Process:
    """The process, as its parent sees it."""

    def __init__(
        self, seconds: float = 60, memory: int = 2**28, result: int = 2**16, parent: int = 0, code: str = ""
    ) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(60)
        limits = (memory, result, seconds, parent or os.getpid())
        program = ("-c", code) if code else ("-m", MODULE)
        command = [sys.executable, "-P", *program, *map(str, limits)]
        with theirs:
            self.child = subprocess.Popen(command, stdin=theirs.fileno(), stderr=subprocess.PIPE)
        self.file = self.socket.makefile("rb")

    def ready(self) -> Process:
        assert self.file.read(calls.HEADER.size) == calls.READY
        return self

    def send(self, kind: str, *fields: Any) -> None:
        self.socket.sendall(calls.encode_question(kind, *fields))

    def receive(self) -> Answer:
        (size,) = calls.HEADER.unpack(self.file.read(calls.HEADER.size))
        return calls.decode_answer(self.file.read(size))

    def render(self, template: str | int, messages: list[dict[str, Any]] = MESSAGES, **options: Any) -> Any:
        self.send(calls.RENDER, template, *render_fields(RenderCall("", messages, **options)))
        return self.receive().content.unpack()

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process().ready()
    yield made
    made.close()
    assert made.child.wait(60) == 0
    assert made.child.stderr is not None
    assert made.child.stderr.read() == b""


def test_it_imports_little_and_is_small() -> None:
    script = f"import sys, {MODULE}; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-P", "-c", script], text=True) == "[]\n"


def test_it_renders_what_json_can_hold(process: Process) -> None:
    odd = {"role": "user", "content": "\ud800 é \x00", "n": 10**40, "f": float("inf"), "none": None}
    text = process.render(
        "{{ messages | tojson }} {{ tools | length }} {{ documents | length }} {{ bos_token }} {{ add_generation_prompt }}",
        [odd],
        tools=[{"type": "function"}],
        documents=[{"text": "x"}],
        variables={"bos_token": "<s>"},
    )
    assert text == RenderedPrompt(
        '[{"role": "user", "content": "\ud800 é \\u0000", "n": 1'
        + "0" * 40
        + ', "f": Infinity, "none": null}] 1 1 <s> True'
    )


def test_it_remembers_templates(process: Process) -> None:
    process.send(calls.TEMPLATE, 7, "{{ messages[0].content }}!")
    assert process.render(7).text == "Why?!"


def test_it_finds_facts(process: Process) -> None:
    process.send(calls.FACTS, "{{ tools }}{{ messages }}", ["tool", "x"])
    assert process.receive().content.unpack() == TemplateFacts(True, "anywhere", frozenset({"tool"}))


def test_errors_are_the_same_as_in_this_process(process: Process) -> None:
    with pytest.raises(RequestError) as error:
        process.render("{{ raise_exception('not like\nthis') }}")
    assert error.value.args == ("the chat template refuses these messages: not like this", "")
    assert error.value.param == "messages"
    with pytest.raises(RequestError) as error:
        process.render("{% if %}")
    assert error.value.param == "chat_template"


def test_nesting_without_end_is_an_error(process: Process) -> None:
    for template in ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% if 1 %}" * 3000 + "{% endif %}" * 3000):
        with pytest.raises(RequestError, match="RecursionError"):
            process.render(template)
    deep = "[" * 20_000
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": ' + deep}}
    assert (
        "[[["
        in process.render("{{ messages[0].tool_calls | tojson }}", [{"role": "assistant", "tool_calls": [call]}]).text
    )


def test_a_result_has_a_limit(process: Process) -> None:
    assert len(process.render("{{ 'a' * 2**16 }}").text) == 2**16
    for long in ("{{ 'a' * (2**16 + 1) }}", "{{ 'é' * 2**15 }}é"):
        with pytest.raises(RequestError, match="makes a text of more than 65536 bytes"):
            process.render(long)


@pytest.mark.parametrize("template", ["{{ 'a' * 10**10 }}", "{{ [1] * 10**9 }}", "{{ [messages] * 10**8 }}"])
def test_memory_has_a_limit_after_which_the_process_ends(process: Process, template: str) -> None:
    process.send(calls.RENDER, template, *render_fields(RenderCall("", MESSAGES)))
    answer = process.receive()
    assert answer.last
    with pytest.raises(RequestError, match="needs more than 256 MiB of memory"):
        answer.content.unpack()
    assert process.child.wait(60) == 0


def test_memory_that_many_small_texts_take_is_limited_as_well(process: Process) -> None:
    doubling = "{% set n = namespace(s=[messages]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}"
    with pytest.raises(RequestError, match="needs more than 256 MiB of memory"):
        process.render(doubling)


def test_memory_that_stays_is_given_back_by_ending() -> None:
    process = Process(code=f"import {MODULE} as process; process.KEEP_BYTES = -1; process.main()").ready()
    process.send(calls.RENDER, "a", *render_fields(RenderCall("", MESSAGES)))
    answer = process.receive()
    assert (answer.content.unpack().text, answer.last) == ("a", True)
    assert process.child.wait(60) == 0
    process.close()


@pytest.mark.parametrize("template", [ENDLESS, "{{ 10 ** (10 ** 8) }}"])
def test_processor_time_has_a_limit_without_any_parent(template: str) -> None:
    process = Process(seconds=0.5).ready()
    process.send(calls.RENDER, template, *render_fields(RenderCall("", MESSAGES)))
    assert process.child.wait(60) == -signal.SIGXCPU
    process.close()


def test_it_ends_when_the_socket_closes_and_at_no_other_signal() -> None:
    process = Process().ready()
    assert process.render("a").text == "a"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process.child.send_signal(number)
    assert process.render("b").text == "b"
    process.close()
    assert process.child.wait(60) == 0


PARENT = """
import os, socket, subprocess, sys, time
from dovetail.engine.templates import calls
from dovetail.engine.templates.calls import RenderCall, render_fields
mine, theirs = socket.socketpair()
child = subprocess.Popen(
    [sys.executable, "-P", "-m", "dovetail.engine.templates.process", str(2**28), "1000", "600", str(os.getpid())],
    stdin=theirs.fileno(), start_new_session=True,
)
theirs.close()
call = RenderCall("", [{"role": "user", "content": "a"}])
mine.recv(len(calls.READY))
mine.sendall(calls.encode_question(calls.RENDER, sys.argv[1], *render_fields(call)))
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell of the parent's death")
@pytest.mark.parametrize("template", [ENDLESS, "{{ 10 ** (10 ** 8) }}"])
def test_it_ends_with_its_parent_whatever_it_is_doing(template: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, template], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.2)
    assert _lives(pid)
    parent.kill()
    parent.communicate()
    end = time.monotonic() + 30
    while _lives(pid):
        assert time.monotonic() < end, "it outlives its parent"
        time.sleep(0.02)


def test_it_does_not_begin_when_its_parent_has_ended_already() -> None:
    if sys.platform != "linux":
        pytest.skip("other systems do not tell of the parent's death")
    process = Process(parent=os.getppid())
    assert process.child.wait(60) == 0
    process.close()


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False

"""The engine's loop: what one request's own data breaks ends that request alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dovetail.engine import messages as m
from dovetail.engine.args import EngineArgs
from dovetail.engine.engine_request import Request
from dovetail.engine.process import engine_process
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.sampling.tables import SamplingTables
from dovetail.engine.step import core


class PanicException(BaseException):
    """As pyo3's: no ``Exception``."""


class FakeSocket:
    """Has some messages for the engine, and takes its own."""

    def __init__(self, *messages: m.Message) -> None:
        self.messages = list(messages)
        self.sent: list[Any] = []

    def poll(self, wait: int | None) -> bool:
        if wait == 0 and self.messages and isinstance(self.messages[0], m.Stop):
            return False  # the engine steps once before it stops
        return bool(self.messages)

    def recv(self) -> m.Message:
        return self.messages.pop(0)

    def send(self, message: Any) -> None:
        self.sent.append(message)


class FakeCore:
    """Takes requests, except for one."""

    info, stats, state, is_sleeping, stalled = m.EngineInfo(1, 1, "", {}, ""), m.EngineStats(), None, False, False

    def __init__(self, failure: BaseException) -> None:
        self.failure = failure
        self.taken: list[str] = []
        self.idle = False

    def add(self, new: m.NewRequest) -> None:
        if new.id == "bad":
            raise self.failure
        self.taken.append(new.id)

    def step(self) -> list[m.TokenOutput]:
        self.idle = True
        return [m.TokenOutput(id, [5]) for id in self.taken]

    def overview(self) -> Any:
        raise self.failure


def run_engine(monkeypatch: pytest.MonkeyPatch, failure: BaseException, *messages: m.Message) -> FakeSocket:
    monkeypatch.setattr(core, "EngineCore", lambda *_: FakeCore(failure))
    for name, found in (("Plan", SimpleNamespace(model="m")), ("EngineArgs", EngineArgs(model="m"))):
        monkeypatch.setattr(getattr(engine_process, name), "model_validate_json", lambda _, found=found: found)
    monkeypatch.setattr(m, "decode_to_engine", lambda message: message)
    monkeypatch.setattr(m, "encode", lambda message: message)
    socket = FakeSocket(*messages, m.Stop())
    engine_process._run(socket, m.Start("", ""))  # type: ignore[arg-type]
    return socket


def new_request(id: str) -> m.NewRequest:
    return m.NewRequest(id, [1, 2], SamplingParams())


FAILURES = [OverflowError("int too big to convert"), PanicException("secret detail")]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_request_that_cannot_be_taken_ends_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: BaseException
) -> None:
    socket = run_engine(monkeypatch, failure, *map(new_request, ("one", "bad", "two")))
    (step,) = (message for message in socket.sent if isinstance(message, m.StepOutputs))
    assert [(output.id, output.finish_reason) for output in step.outputs] == [
        ("bad", "error"),
        ("one", None),
        ("two", None),
    ]
    refused = step.outputs[0]
    assert not refused.is_request_error
    assert "secret" not in (refused.error or "")
    assert "the request bad could not be taken" in caplog.text


def test_a_question_that_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    socket = run_engine(monkeypatch, PanicException("no"), m.Call(1, "overview"), new_request("one"))
    (answer,) = (message for message in socket.sent if isinstance(message, m.Answer))
    assert answer.failure is not None
    assert any(isinstance(message, m.StepOutputs) for message in socket.sent)


def test_what_ends_a_program_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_engine(monkeypatch, KeyboardInterrupt(), new_request("bad"))


def test_an_idle_engine_returns_freed_memory_once(monkeypatch: pytest.MonkeyPatch) -> None:
    returned: list[int] = []
    poll = FakeSocket.poll

    def quiet(self: FakeSocket, wait: int | None) -> bool:
        return False if wait == engine_process.TRIM_MILLISECONDS else poll(self, wait)

    monkeypatch.setattr(FakeSocket, "poll", quiet)
    monkeypatch.setattr(engine_process, "release_free_memory", lambda: returned.append(1))
    run_engine(monkeypatch, RuntimeError())
    assert not returned  # nothing was done yet
    run_engine(monkeypatch, RuntimeError(), new_request("one"))
    assert returned == [1]


@pytest.mark.parametrize("seed", [2**63, 2**64, -(2**64)])
def test_numbers_beyond_the_tables_are_found_before_a_step(seed: int) -> None:
    request = Request(
        "a", [1], SamplingParams(), num_prompt_tokens=1, max_len=5, eos_ids=frozenset(), seed=seed, priority=0
    )
    with pytest.raises(OverflowError):
        SamplingTables.check(request)

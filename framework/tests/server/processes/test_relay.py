"""One engine for several processes: over an engine that is none, and processes that are lists of what they were sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from link_fakes import INFO, FakeChild, fake_plan, settled

from dovetail.api.errors import EngineDeadError
from dovetail.engine import messages as m
from dovetail.engine.args import EngineArgs
from dovetail.engine.request.params import SamplingParams
from dovetail.server.processes.relay import Relay, RelayedEngine
from dovetail.server.processes.relay_messages import EngineLost, StateAck, decode_from_hub

A, B, C = b"a", b"b", b"c"


class Processes:
    """Two that have joined, and the engine they share."""

    def __init__(self) -> None:
        self.now = 100.0
        self.got: dict[bytes, list[Any]] = {A: [], B: [], C: []}
        self.relay = Relay(self.send, lambda: self.now)

    def send(self, name: bytes, message: m.Message) -> None:
        self.got[name].append(decode_from_hub(m.encode(message)))

    async def start(self) -> FakeChild:
        engine, child = RelayedEngine(fake_plan(), EngineArgs()), FakeChild()
        child.say(INFO)
        await engine.attach(child)
        self.relay.set_engine(engine)
        self.engine = engine
        return child

    def new(self, name: bytes, *ids: str) -> None:
        for id in ids:
            self.relay.receive(name, m.NewRequest(id, [1], SamplingParams()))

    def take(self, name: bytes, kind: type[m.Message]) -> list[Any]:
        """What a process got of a kind since it was last asked."""
        found = [message for message in self.got[name] if isinstance(message, kind)]
        self.got[name].clear()
        return found


def run(test: Callable[[Processes, FakeChild], Awaitable[None]]) -> None:
    async def main() -> None:
        processes = Processes()
        child = await processes.start()
        for name in (A, B):
            processes.relay.add_process(name)
            processes.relay.receive(name, StateAck())
            processes.got[name].clear()
        async with asyncio.timeout(5):
            await test(processes, child)
        await processes.engine.stop()

    asyncio.run(main())


def step(*ids: str, ended: tuple[str, ...] = (), running: int = 1, waiting: int = 0) -> m.StepOutputs:
    outputs = [m.TokenOutput(id, [7], "length" if id in ended else None) for id in ids]
    return m.StepOutputs(outputs, m.EngineStats(running=running, waiting=waiting))


def ids(messages: list[m.StepOutputs]) -> list[list[str]]:
    return [[output.id for output in message.outputs] for message in messages]


def test_each_process_gets_the_outputs_of_its_own_requests() -> None:
    async def test(processes: Processes, child: FakeChild) -> None:
        processes.new(A, "a1", "a2")
        processes.new(B, "b1")
        assert [message.id for message in child.sent] == ["a1", "a2", "b1"]
        child.say(step("a1", "b1", "a2"))
        child.say(step("b1", "stranger"))
        await settled()
        assert ids(processes.take(A, m.StepOutputs)) == [["a1", "a2"]]
        assert ids(processes.take(B, m.StepOutputs)) == [["b1"], ["b1"]]

    run(test)


def test_all_sequences_of_a_request_belong_to_its_process() -> None:
    async def test(processes: Processes, child: FakeChild) -> None:
        processes.relay.receive(A, m.NewRequest("a1", [1], SamplingParams(), siblings=[m.Sibling("a2")]))
        (sent,) = child.sent
        assert sent.ids == ["a1", "a2"]
        child.say(step("a2", "a1"))
        await settled()
        assert ids(processes.take(A, m.StepOutputs)) == [["a2", "a1"]]

    run(test)


def test_what_has_ended_or_was_aborted_is_nobodys() -> None:
    async def test(processes: Processes, child: FakeChild) -> None:
        processes.new(A, "a1", "a2", "a3")
        child.say(step("a1", "a2", ended=("a1",)))
        await settled()
        processes.relay.receive(A, m.Abort(["a2"]))
        assert child.sent[-1].ids == ["a2"]
        processes.take(A, m.StepOutputs)
        child.say(step("a1", "a2", "a3"))
        await settled()
        assert ids(processes.take(A, m.StepOutputs)) == [["a3"]]
        # The same name is free for whoever comes next.
        processes.new(B, "a1")
        child.say(step("a1"))
        await settled()
        assert ids(processes.take(B, m.StepOutputs)) == [["a1"]]

    run(test)


def test_the_requests_of_a_process_that_has_gone_are_aborted() -> None:
    async def test(processes: Processes, child: FakeChild) -> None:
        processes.new(A, "a1", "a2")
        processes.new(B, "b1")
        processes.relay.remove_process(A)
        assert sorted(child.sent[-1].ids) == ["a1", "a2"]
        sent = len(child.sent)
        child.say(step("a1", "a2", "b1"))
        await settled()
        assert processes.got[A] == []
        assert ids(processes.take(B, m.StepOutputs)) == [["b1"]]
        processes.relay.remove_process(b"unknown")
        assert len(child.sent) == sent

    run(test)


def test_statistics_reach_those_without_outputs_now_and_then_and_when_the_engine_comes_to_rest() -> None:
    async def test(processes: Processes, child: FakeChild) -> None:
        processes.new(A, "a1")
        for passed, told in ((0.2, 1), (0.05, 0), (0.04, 0), (0.02, 1), (0.05, 0)):
            processes.now += passed
            child.say(step("a1", running=3, waiting=2))
            await settled()
            assert len(processes.take(A, m.StepOutputs)) == 1
            others = processes.take(B, m.StepOutputs)
            assert [(message.stats.running, message.stats.waiting) for message in others] == [(3, 2)] * told
        child.say(step(running=0, waiting=1))
        child.say(step(running=0, waiting=0))
        await settled()
        for name in (A, B):
            assert [message.stats.waiting for message in processes.take(name, m.StepOutputs)] == [1, 0]

    run(test)


def test_calls_of_one_number_are_told_apart() -> None:
    async def test(processes: Processes, child: FakeChild) -> None:
        for name, level in ((A, 1), (B, 2)):
            processes.relay.receive(name, m.Call(1, "sleep", [level]))
        await settled()
        first, second = child.sent
        assert first.number != second.number
        assert [call.arguments for call in (first, second)] == [[1], [2]]
        child.say(m.Answer(second.number, None, ("RequestError", "there is no such level", "give 1")))
        child.say(m.Answer(first.number, "one"))
        await settled()
        assert processes.take(A, m.Answer) == [m.Answer(1, "one")]
        assert processes.take(B, m.Answer) == [m.Answer(1, None, ("RequestError", "there is no such level", "give 1"))]

    run(test)


def test_a_change_is_answered_once_every_process_has_seen_it() -> None:
    async def test(processes: Processes, child: FakeChild) -> None:
        processes.relay.receive(A, m.Call(5, "add_adapter", ["{}"]))
        await settled()
        child.say(m.State({"one": "/one"}))
        child.say(m.Answer(child.sent[-1].number))
        await settled()
        for name in (A, B):
            assert [message.adapters for message in processes.take(name, m.State)] == [{"one": "/one"}]
        processes.relay.receive(A, StateAck())
        await settled()
        assert processes.take(A, m.Answer) == []
        processes.relay.receive(B, StateAck())
        await settled()
        assert processes.take(A, m.Answer) == [m.Answer(5)]

    run(test)


def test_a_process_that_has_gone_holds_up_no_answer() -> None:
    async def test(processes: Processes, child: FakeChild) -> None:
        processes.relay.receive(A, m.Call(5, "sleep", [1]))
        processes.relay.receive(B, m.Call(6, "sleep", [1]))
        await settled()
        child.say(m.State(sleeping=True))
        for call in child.sent[-2:]:
            child.say(m.Answer(call.number))
        await settled()
        processes.relay.receive(A, StateAck())
        processes.relay.remove_process(B)
        await settled()
        assert processes.take(A, m.Answer) == [m.Answer(5)]
        assert processes.take(B, m.Answer) == []

    run(test)


def test_who_joins_learns_how_things_stand() -> None:
    async def test(processes: Processes, child: FakeChild) -> None:
        child.say(m.State({"one": "/one"}, sleeping=True))
        child.say(step(running=0, waiting=4))
        await settled()
        processes.relay.add_process(C)
        assert processes.got[C] == [
            INFO,
            m.StepOutputs([], m.EngineStats(waiting=4)),
            m.State({"one": "/one"}, sleeping=True),
        ]

    run(test)


def test_who_joins_before_there_is_an_engine_hears_of_it_when_it_is_ready() -> None:
    async def main() -> None:
        processes = Processes()
        processes.relay.add_process(A)
        processes.relay.receive(A, m.Call(1, "sleep", [1]))
        await settled()
        (answer,) = processes.take(A, m.Answer)
        assert answer.failure[0] == "EngineDeadError"
        await processes.start()
        assert [type(message) for message in processes.got[A]] == [m.EngineInfo, m.StepOutputs, m.State]
        await processes.engine.stop()

    asyncio.run(main())


def test_everybody_hears_that_the_engine_is_gone_and_of_its_successor() -> None:
    async def test(processes: Processes, child: FakeChild) -> None:
        processes.new(A, "a1")
        processes.relay.receive(A, m.Call(1, "sleep", [1]))
        await settled()
        child.exit(-9)
        assert "signal 9" in await processes.engine.ended()
        processes.relay.set_engine_lost("killed by signal 9", restarting=True)
        processes.relay.add_process(C)
        processes.relay.receive(C, StateAck())
        await settled()
        for name in (A, B, C):
            assert EngineLost("killed by signal 9", restarting=True) in processes.got[name]
        assert processes.take(A, m.Answer)[0].failure[0] == EngineDeadError.__name__
        # What is on its way to it is for nobody.
        sent = len(child.sent)
        processes.new(B, "b1")
        processes.relay.receive(B, m.Abort(["b1"]))
        processes.relay.remove_process(C)
        assert len(child.sent) == sent
        for name in (A, B):
            processes.got[name].clear()
        successor = await processes.start()
        for name in (A, B):
            assert [type(message) for message in processes.got[name]] == [m.EngineInfo, m.StepOutputs, m.State]
            processes.got[name].clear()
        processes.new(A, "a1")
        successor.say(step("a1", "b1"))
        await settled()
        assert ids(processes.take(A, m.StepOutputs)) == [["a1"]]

    run(test)


@pytest.mark.parametrize("restarting", [True, False])
def test_a_process_says_what_the_hub_said_of_the_engine(restarting: bool) -> None:
    from dovetail.server.processes.api_worker import WorkerEngine

    async def main() -> None:
        tokenizer: Any = None
        child = FakeChild(lambda frame: frame)
        engine = WorkerEngine(fake_plan(), EngineArgs(), tokenizer)
        child.say(INFO)
        child.say(m.State({"one": "/one"}))
        await engine.attach(child)
        await settled()
        assert child.sent == [m.encode(StateAck())]
        assert engine.adapters == {"one": "/one"}
        running, ended = asyncio.create_task(engine.call("sleep", 1)), asyncio.create_task(engine.ended())
        await settled()
        engine.mark_lost(EngineLost("killed by signal 9", restarting))
        with pytest.raises(EngineDeadError, match="killed by signal 9"):
            await running
        assert (engine.alive, engine.restarting) == (False, restarting)
        await settled()
        assert ended.done() is not restarting
        child.say(m.EngineInfo(50, 3, "", {}, ""))
        await settled()
        assert (engine.alive, engine.restarting, engine.max_model_len) == (True, False, 50)
        ended.cancel()
        await engine.stop()

    asyncio.run(main())

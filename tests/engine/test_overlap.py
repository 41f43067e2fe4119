"""Steps that overlap, and steps captured as graphs, on a device that the host plays: the tokens are those of one step after the other."""

from __future__ import annotations

import random

import pytest

from dovetail.engine.args import EngineArgs
from dovetail.engine.messages import NewRequest
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.setup import make_plan
from dovetail.engine.step.core import EngineCore
from dovetail.kernel.plan import Plan

from ..fake_device import FakeAttention, FakeDevice
from ..reference_engine import ReferenceEngine
from ..tiny import write_checkpoint
from .test_storm import LONGEST, check_storm


@pytest.fixture(scope="module", params=["full", "sliding"])
def plan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    changes = {"max_position_embeddings": LONGEST}
    if request.param == "sliding":
        changes |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 21}
    plan = make_plan(EngineArgs(model=str(write_checkpoint(tmp_path_factory.mktemp(request.param), **changes))))

    def moved(choice, target):  # type: ignore[no-untyped-def]
        return choice.model_copy(update={"part": choice.part.model_copy(update={"target": target})})

    return plan.model_copy(
        update={
            "platform": moved(plan.platform, f"{FakeDevice.__module__}:FakeDevice"),
            "attention": moved(plan.attention, f"{FakeAttention.__module__}:FakeAttention"),
        }
    )


@pytest.fixture(scope="module")
def reference(plan: Plan) -> ReferenceEngine:
    return ReferenceEngine(plan)


@pytest.mark.parametrize("eager", [False, True], ids=["graphs", "eager"])
def test_a_storm_on_the_device(plan: Plan, reference: ReferenceEngine, eager: bool) -> None:
    before = FakeDevice.captured, FakeDevice.replayed
    core = check_storm(plan, reference, {"max_num_seqs": 6, "block_size": 8, "enforce_eager": eager}, 16, 3)
    assert core.async_scheduling
    captured, replayed = FakeDevice.captured - before[0], FakeDevice.replayed - before[1]
    if eager:
        assert captured == 0
    else:
        assert 0 < captured < replayed


def test_a_token_goes_into_the_next_step_before_the_host_has_seen_it(plan: Plan) -> None:
    core = EngineCore(plan, EngineArgs(model="", max_num_seqs=4, block_size=8))
    core.add(NewRequest("r", [1, 2, 3], SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)))
    assert core.step() == [], "the first step is on its way"
    request = core.requests["r"]
    assert (request.num_in_flight_tokens, len(request.tokens)) == (1, 3)
    (output,) = core.step()
    assert len(output.token_ids) == 1
    assert request.num_in_flight_tokens == 1, "the second step was begun before the first one's token was read"
    outputs = []
    while not core.idle:
        outputs += core.step()
    assert [o.finish_reason for o in outputs] == [None, None, "length"]
    assert core.kv.is_unused


def test_a_request_that_ends_while_its_next_step_computes_leaves_nothing(
    plan: Plan, reference: ReferenceEngine
) -> None:
    rng = random.Random(4)
    probe = NewRequest(
        "p",
        [rng.randrange(250) for _ in range(20)],
        SamplingParams(temperature=0, seed=0, max_tokens=9, ignore_eos=True),
    )
    tokens = reference.generate(probe)
    core = EngineCore(plan, EngineArgs(model="", max_num_seqs=4, block_size=8))
    stop = tokens[3]
    core.add(
        NewRequest(
            "r",
            probe.prompt_token_ids,
            SamplingParams(temperature=0, max_tokens=9, ignore_eos=True, stop_token_ids=[stop]),
        )
    )
    got: list[int] = []
    while not core.idle:
        for output in core.step():
            got += output.token_ids
    assert got == tokens[: tokens.index(stop) + 1]
    assert core.kv.is_unused
    assert core.stats.running == 0


@pytest.mark.parametrize("level", [1, 2])
def test_sleep_gives_memory_back_and_the_requests_go_on_after_it(
    plan: Plan, reference: ReferenceEngine, level: int
) -> None:
    rng = random.Random(4)
    requests = [
        NewRequest(
            str(i),
            [rng.randrange(250) for _ in range(20)],
            SamplingParams(temperature=0, seed=0, max_tokens=20, ignore_eos=True),
        )
        for i in range(5)
    ]
    core = EngineCore(plan, EngineArgs(model="", max_num_seqs=3, block_size=8))
    got: dict[str, list[int]] = {r.id: [] for r in requests}

    def step() -> None:
        for output in core.step():
            got[output.id] += output.token_ids

    for new in requests[:4]:
        core.add(new)
    for _ in range(5):
        step()
    core.sleep(level)
    assert core.is_sleeping
    assert core.stats.running == 0
    assert (
        all(layer.cache is None for layer in core.runner.ctx.attention_layers)
        if level == 1
        else not hasattr(core.runner, "model")
    )
    core.add(requests[4])
    step()
    assert core.requests
    core.wake_up(["weights"])
    assert core.is_sleeping
    core.wake_up()
    assert not core.is_sleeping
    while not core.idle:
        step()
    assert got == reference.generate_all(requests)
    assert core.kv.is_unused


def test_a_row_that_is_given_up_while_its_step_is_launched_keeps_no_token(
    plan: Plan, reference: ReferenceEngine
) -> None:
    """Multi-token bad words have the host wait for the step before, by which another request may end."""

    def greedy(name: str, prompt: list[int], count: int, bad_words: list[list[int]], stops: list[int]) -> NewRequest:
        params = SamplingParams(temperature=0, seed=0, max_tokens=count, ignore_eos=True, stop_token_ids=stops)
        return NewRequest(name, prompt, params, bad_words=bad_words)

    stop = reference.generate(greedy("ends", [1, 2, 3, 4, 5], 12, [], []))[4]
    ends = greedy("ends", [1, 2, 3, 4, 5], 12, [], [stop])
    waits = greedy("waits", [9, 8, 7], 30, [[250, 251]], [])
    single = greedy("single", [77], 5, [], [])  # a prompt of one token looks like a decode
    core = EngineCore(plan, EngineArgs(model="", max_num_seqs=4, block_size=8))
    core.add(ends)
    core.add(waits)
    got: dict[str, list[int]] = {"ends": [], "waits": [], "single": []}
    while not core.idle:
        for output in core.step():
            got[output.id] += output.token_ids
            if output.id == "ends" and output.finish_reason:
                core.add(single)
    assert got == reference.generate_all([ends, waits, single])

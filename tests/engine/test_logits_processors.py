"""Logits processors in the engine: requests that ask get them, in every kind of step, and the others are what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dovetail import LLM, SamplingParams
from dovetail.api import LogitsProcessorContext, LogitsRow, PluginError, RequestError, UsageError
from dovetail.engine.args import EngineArgs
from dovetail.engine.messages import NewRequest
from dovetail.engine.request.logits_processors import NamedProcessor
from dovetail.engine.sampling.logits_processors import ProcessorCall
from dovetail.engine.setup import make_plan
from dovetail.engine.step.core import EngineCore
from dovetail.kernel.plan import Plan
from dovetail.kernel.plan_parts import LogitsProcessorPlan

from ..fake_device import FakeAttention, FakeDevice
from ..tiny import write_checkpoint
from . import processors
from .processors import Ladder

NAMES = ("Ladder", "Mirror", "Broken", "Narrow", "Spoiler", "Healer", "Unmakable", "Stranger")
WAY_OUT = "update it, or leave it out with --plugins=-acme-processors; --debug shows the traceback"
LOOKUP = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


def offering(plan: Plan) -> Plan:
    """The plan with every processor of this folder, as plugins would bring them."""
    offered = tuple(
        LogitsProcessorPlan(
            name=n.lower(), target=f"{processors.__name__}:{n}", distribution="acme-processors", version="2.0"
        )
        for n in NAMES
    )
    return plan.model_copy(update={"logits_processors": offered})


def on_device(plan: Plan) -> Plan:
    def moved(choice, target):  # type: ignore[no-untyped-def]
        return choice.model_copy(update={"part": choice.part.model_copy(update={"target": target})})

    changes = {
        "platform": moved(plan.platform, f"{FakeDevice.__module__}:FakeDevice"),
        "attention": moved(plan.attention, f"{FakeAttention.__module__}:FakeAttention"),
    }
    return plan.model_copy(update=changes)


def run(core: EngineCore, requests: list[NewRequest]) -> dict[str, tuple[list[int], str | None]]:
    found: dict[str, tuple[list[int], str | None]] = {r.id: ([], None) for r in requests}
    for request in requests:
        core.add(request)
    while not core.idle:
        for output in core.step():
            tokens = found[output.id][0] + output.token_ids
            found[output.id] = (tokens, output.error)
    return found


def params(*named: Any, count: int = 12, **more: Any) -> SamplingParams:
    given = {"temperature": 0.0, "max_tokens": count, "ignore_eos": True, **more}
    return SamplingParams(logits_processors=list(named), **given)


REQUESTS = [
    NewRequest("plain", [5, 6, 7] * 6, params()),
    NewRequest("ladder", [5, 6, 7] * 6, params("ladder")),
    NewRequest("long", [9] * 40, params({"name": "ladder", "args": {"step": 3}}, count=20)),
    NewRequest("drawn", [1, 2, 3, 4], params({"qualname": "ladder", "kwargs": {"step": 2}}, temperature=1.0, seed=3)),
    NewRequest("other", [1, 2, 3, 4], params(temperature=1.0, seed=3)),
]


@pytest.mark.parametrize(
    ("options", "device"),
    [
        ({}, False),
        ({"max_num_batched_tokens": 16}, False),
        ({"num_gpu_blocks_override": 20, "max_model_len": 64}, False),
        ({"speculative_config": LOOKUP}, False),
        ({}, True),
        ({"enforce_eager": True, "num_gpu_blocks_override": 20, "max_model_len": 64}, True),
    ],
    ids=["wide", "chunked", "preempted", "speculating", "graphs", "eager"],
)
def test_requests_that_ask_get_them_and_the_others_are_what_they_were(
    checkpoint: Path, options: dict[str, Any], device: bool
) -> None:
    args = EngineArgs(model=str(checkpoint), **{"max_num_seqs": 8, "block_size": 4, **options})
    plan = offering(make_plan(args))
    core = EngineCore(on_device(plan) if device else plan, args)
    before = len(Ladder.calls)
    alone = run(core, [r for r in REQUESTS if not r.params.logits_processors])
    assert len(Ladder.calls) == before  # nobody asked
    if "num_gpu_blocks_override" in options:
        core.kv.reset_prefix_cache()
    found = run(core, REQUESTS)
    assert {name: found[name] for name in alone} == alone
    assert found["ladder"] == ([8 + i for i in range(12)], None)
    assert found["long"] == ([12 + 3 * i for i in range(20)], None)
    assert found["drawn"] == ([6 + 2 * i for i in range(12)], None)
    assert len(Ladder.calls) > before
    if "num_gpu_blocks_override" in options:
        assert core.scheduler.preemptions > 0


def test_they_run_in_the_requests_order_and_before_what_is_forbidden(checkpoint: Path) -> None:
    args = EngineArgs(model=str(checkpoint), max_num_seqs=8, block_size=4)
    core = EngineCore(offering(make_plan(args)), args)
    found = run(
        core,
        [
            NewRequest("once", [1, 2], params("mirror", count=1)),
            NewRequest("twice", [1, 2], params("mirror", "mirror", count=1)),
            NewRequest("plain", [1, 2], params(count=1)),
            NewRequest("allowed", [1, 2], params("mirror", count=1, allowed_token_ids=[7])),
            NewRequest("contradicts", [1, 2], params("ladder", count=1, allowed_token_ids=[7])),
        ],
    )
    assert found["twice"] == found["plain"] != found["once"]
    assert found["allowed"] == ([7], None)
    assert found["contradicts"][0] == []
    assert "forb" in str(found["contradicts"][1]) or "allow" in str(found["contradicts"][1])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_that_makes_nan_is_named_in_place_of_the_model(
    checkpoint: Path, temperature: float, caplog: pytest.LogCaptureFixture
) -> None:
    args = EngineArgs(model=str(checkpoint), max_num_seqs=8, block_size=4)
    core = EngineCore(offering(make_plan(args)), args)
    found = run(
        core,
        [
            NewRequest("first", [1, 2], params("spoiler", temperature=temperature)),
            NewRequest("second", [1, 2], params("mirror", "spoiler", "mirror", temperature=temperature)),
            NewRequest("healed", [1, 2], params("spoiler", "healer", temperature=temperature, count=3)),
            NewRequest("plain", [1, 2], params(temperature=temperature, count=3)),
        ],
    )
    error = "the logits processor spoiler made logits that are not numbers (NaN)"
    assert [(len(found[name][0]), found[name][1]) for name in ("first", "second")] == [(1, error)] * 2
    assert [(len(found[name][0]), found[name][1]) for name in ("healed", "plain")] == [(3, None)] * 2
    told = {record.getMessage() for record in caplog.records}
    assert told == {
        "the logits processor spoiler (acme-processors 2.0) made logits that are not numbers (NaN) of numbers; "
        + WAY_OUT
    }


def test_nan_of_the_model_is_no_processor_s_fault() -> None:
    plan = LogitsProcessorPlan(name="mirror", target=f"{processors.__name__}:Mirror")
    scores = torch.zeros(3, 4)
    scores[1, 2] = torch.nan
    for kind, made in ((processors.Mirror, [False, False]), (processors.Spoiler, [False, True])):
        named = NamedProcessor(plan, kind(LogitsProcessorContext(4, scores.device)))
        rows = [LogitsRow("a", {}, [1, 2], 1), LogitsRow("b", {}, [1, 2], 1)]
        call = ProcessorCall(named, 0, torch.tensor([1, 2]), [], rows)
        assert call.apply(scores).tolist() == made


@pytest.mark.parametrize("device", [False, True])
def test_one_that_fails_ends_its_requests_alone(
    checkpoint: Path, device: bool, caplog: pytest.LogCaptureFixture
) -> None:
    args = EngineArgs(model=str(checkpoint), max_num_seqs=8, block_size=4)
    plan = offering(make_plan(args))
    core = EngineCore(on_device(plan) if device else plan, args)
    found = run(
        core,
        [
            NewRequest("broken", [1, 2], params("broken")),
            NewRequest("narrow", [1, 2], params("narrow")),
            NewRequest("ladder", [1, 2], params("ladder", count=3)),
        ],
    )
    tokens, error = found["broken"]
    assert (len(tokens), error) == (2, "the logits processor broken failed")
    assert found["narrow"] == ([], "the logits processor narrow failed")
    logged = {record.getMessage(): record.exc_info for record in caplog.records}
    (told,) = (line for line in logged if "secret detail" in line)
    assert told.startswith(
        "the logits processor broken (acme-processors 2.0) failed to change logits (apply): ZeroDivisionError:"
    )
    assert told.endswith(WAY_OUT)
    (told,) = (line for line in logged if "narrow" in line)
    assert (
        "the logits processor narrow (acme-processors 2.0) answered apply() with Tensor of torch.float32 [1, 255], wanted"
        in told
    )
    assert not any(logged.values()), "tracebacks are shown with --debug alone"
    assert found["ladder"] == ([3, 4, 5], None)
    for name, reason in (
        ("unmakable", "failed to start: ValueError: no such file"),
        ("stranger", "is no subclass of dovetail.api.LogitsProcessor"),
    ):
        with pytest.raises(PluginError, match=reason):
            core.add(NewRequest("late", [1], params(name)))
    assert core.idle


def test_classes_of_ones_own_serve_every_request(checkpoint: Path) -> None:
    llm = LLM(str(checkpoint), logits_processors=[Ladder], max_model_len=128, use_tqdm=False)
    name = f"{Ladder.__module__}:Ladder"
    asked = [params(count=3), params({"name": name, "args": {"step": 2}}, count=3), params(count=3, n=2)]
    outputs = llm.generate([[5], [5], [9]], asked, use_tqdm=False)
    assert [o.token_ids for output in outputs for o in output.outputs] == [
        [6, 7, 8],
        [7, 9, 11],
        [10, 11, 12],
        [10, 11, 12],
    ]
    with pytest.raises(RequestError, match=r"there is no logits processor 'os:system' here; there are .*Ladder"):
        llm.generate([[5]], params("os:system"), use_tqdm=False)
    for wrong, kind in (
        ("no_such_module:Class", UsageError),
        ("no-such-plugin", UsageError),
        (f"{Ladder.__module__}:Missing", PluginError),
        (f"{Ladder.__module__}:Stranger", PluginError),
        (f"{Ladder.__module__}:Unmakable", PluginError),
    ):
        with pytest.raises(kind, match=wrong):
            LLM(str(checkpoint), logits_processors=[wrong], max_model_len=128, use_tqdm=False)

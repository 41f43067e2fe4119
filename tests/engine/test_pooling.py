"""Vectors from the real engine: those of transformers, however the prompts are computed."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dovetail_models_llama.model import LlamaForCausalLM

from dovetail.api.errors import RequestError
from dovetail.engine.args import EngineArgs
from dovetail.engine.messages import NewRequest, TokenOutput
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.request.pooling_params import NO_SAMPLING, PoolingParams
from dovetail.engine.setup import make_plan
from dovetail.engine.step.core import EngineCore
from dovetail.kernel.plan import Plan

from ..fake_device import FakeAttention, FakeDevice
from ..reference_engine import ReferenceEngine
from ..tiny import write_checkpoint

TOLERANCE = 1e-5
TYPES = ("last", "mean", "cls")
LENGTHS = (1, 2, 7, 16, 17, 33, 64, 100)


class Labelled(LlamaForCausalLM):
    """With a head for three labels, or for one score, that is no more than the first channels."""

    labels = 3

    def pooled_logits(self, pooled: torch.Tensor) -> torch.Tensor:
        return pooled[:, : self.labels]


class Scored(Labelled):
    labels = 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def plan(folder: Path) -> Plan:
    """Of a model that does everything."""
    made = make_plan(EngineArgs(model=str(folder), convert="embed", dtype="float32"))
    return made.model_copy(update={"tasks": ("generate", "embed")})


def moved(plan: Plan, **targets: str) -> Plan:
    changes = {
        role: (choice := getattr(plan, role)).model_copy(
            update={"part": choice.part.model_copy(update={"target": target})}
        )
        for role, target in targets.items()
    }
    return plan.model_copy(update=changes)


@pytest.fixture(scope="module")
def device_plan(plan: Plan) -> Plan:
    module = FakeDevice.__module__
    return moved(plan, platform=f"{module}:FakeDevice", attention=f"{module}:{FakeAttention.__name__}")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = random.Random(1)
    return [[rng.randrange(250) for _ in range(length)] for length in LENGTHS]


@pytest.fixture(scope="module")
def hidden(folder: Path, prompts: list[list[int]]) -> list[np.ndarray]:
    """The last hidden states of each prompt, by transformers, ``[T, C]``."""
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return [model(torch.tensor([ids])).last_hidden_state[0].numpy() for ids in prompts]


def expected(states: np.ndarray, pooling_type: str, *, normalize: bool = True) -> np.ndarray:
    vector = {"last": states[-1], "cls": states[0], "mean": states.mean(0)}[pooling_type]
    return vector / np.linalg.norm(vector) if normalize else vector


def core_of(plan: Plan, **options: Any) -> EngineCore:
    return EngineCore(plan, EngineArgs(model="", **{"max_num_seqs": 8, "block_size": 8, **options}))


def want(name: str, prompt: list[int], **params: Any) -> NewRequest:
    return NewRequest(name, prompt, NO_SAMPLING, pooling=PoolingParams(**params))


def finish(core: EngineCore) -> dict[str, list[TokenOutput]]:
    found: dict[str, list[TokenOutput]] = {}
    while not core.idle:
        for output in core.step():
            found.setdefault(output.id, []).append(output)
    assert core.kv.is_unused
    assert core.batch.num_pooling_requests == 0
    assert not core.requests
    return found


def vectors(core: EngineCore, requests: Iterable[NewRequest]) -> dict[str, np.ndarray]:
    for new in requests:
        core.add(new)
    found = {}
    for name, outputs in finish(core).items():
        (output,) = outputs
        assert (output.finish_reason, output.token_ids, output.error) == ("stop", [], None)
        assert output.vector is not None
        found[name] = np.frombuffer(output.vector, "<f4")
    return found


def every(prompts: list[list[int]]) -> list[NewRequest]:
    return [
        want(f"{kind} {place}", prompt, pooling_type=kind) for kind in TYPES for place, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("chunk", [5, 24, 2048])
@pytest.mark.parametrize("caching", [True, False], ids=["cached", "uncached"])
def test_vectors_are_those_of_transformers_in_any_batch_and_chunks(
    plan: Plan, prompts: list[list[int]], hidden: list[np.ndarray], chunk: int, caching: bool
) -> None:
    core = core_of(plan, max_num_batched_tokens=chunk, enable_prefix_caching=caching)
    for _ in range(2):  # the second time behind what the first has left in the cache
        found = vectors(core, every(prompts))
        for name, vector in found.items():
            kind, place = name.split()
            np.testing.assert_allclose(vector, expected(hidden[int(place)], kind), atol=TOLERANCE, err_msg=name)
        assert len(found) == len(TYPES) * len(prompts)
    assert bool(core.kv.hits) == caching


@pytest.mark.parametrize("eager", [False, True], ids=["graphs", "eager"])
def test_on_a_device_that_queues_beside_streams(
    device_plan: Plan, prompts: list[list[int]], hidden: list[np.ndarray], eager: bool
) -> None:
    reference = ReferenceEngine(device_plan)
    streams = [
        NewRequest(f"stream {i}", ids, SamplingParams(temperature=0, seed=0, max_tokens=12, ignore_eos=True))
        for i, ids in enumerate(prompts[:4])
    ]
    before = FakeDevice.replayed
    core = core_of(device_plan, max_num_batched_tokens=24, max_num_seqs=6, enforce_eager=eager)
    assert core.async_scheduling
    for new in streams:
        core.add(new)
    waiting = every(prompts)
    got: dict[str, list[TokenOutput]] = {}
    while not core.idle or waiting:
        if waiting:
            core.add(waiting.pop())
        for output in core.step():
            got.setdefault(output.id, []).append(output)
    assert core.kv.is_unused
    assert eager or FakeDevice.replayed > before
    for new in streams:
        assert [token for output in got[new.id] for token in output.token_ids] == reference.generate(new)
    for name in (n for n in got if not n.startswith("stream")):
        kind, place = name.split()
        ((vector),) = (output.vector for output in got[name])
        assert vector is not None
        wanted = expected(hidden[int(place)], kind)
        np.testing.assert_allclose(np.frombuffer(vector, "<f4"), wanted, atol=TOLERANCE, err_msg=name)


def test_a_last_token_is_found_behind_a_cached_prefix_and_a_mean_is_computed_whole(plan: Plan) -> None:
    core = core_of(plan)
    prompt = list(range(40))
    vectors(core, [want("first", prompt)])
    for kind, cached in (("last", 32), ("mean", 0), ("cls", 0)):
        core.add(want(kind, prompt, pooling_type=kind))
        ((output,),) = finish(core).values()
        assert output.cached_tokens == cached, kind


@pytest.mark.parametrize("kind", ["plan", "device_plan"])
def test_prompts_that_lose_their_blocks_give_the_same_vectors(
    request: pytest.FixtureRequest, kind: str, prompts: list[list[int]], hidden: list[np.ndarray]
) -> None:
    core = core_of(request.getfixturevalue(kind), max_num_batched_tokens=16, max_num_seqs=4)
    for new in every(prompts):
        core.add(new)
    got: dict[str, bytes | None] = {}
    steps = 0
    while not core.idle:
        got |= {output.id: output.vector for output in core.step()}
        steps += 1
        if steps in (2, 5, 9, 14, 20, 27, 35):  # further and further apart, so that the longest gets through
            for victim in core.scheduler.preempt_all():
                core._remove_from_batch(victim)
    assert core.scheduler.preemptions >= 5
    for name, vector in got.items():
        kind, place = name.split()
        assert vector is not None
        wanted = expected(hidden[int(place)], kind)
        np.testing.assert_allclose(np.frombuffer(vector, "<f4"), wanted, atol=TOLERANCE, err_msg=name)
    assert len(got) == len(TYPES) * len(prompts)


def test_parameters_of_one_batch_differ(plan: Plan, prompts: list[list[int]], hidden: list[np.ndarray]) -> None:
    assert plan.pooling is not None
    trained = plan.model_copy(update={"pooling": plan.pooling.model_copy(update={"dimensions": ()})})
    prompt, states = prompts[-1], hidden[-1]
    found = vectors(
        core_of(trained),
        [
            want("default", prompt),
            want("plain", prompt, use_activation=False),
            want("cut", prompt, dimensions=5),
            want("cut plain mean", prompt, dimensions=7, normalize=False, pooling_type="mean"),
        ],
    )
    wanted = expected(states, "last")
    np.testing.assert_allclose(found["default"], wanted, atol=TOLERANCE)
    np.testing.assert_allclose(found["plain"], states[-1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["cut"], wanted[:5] / np.linalg.norm(wanted[:5]), atol=TOLERANCE)
    np.testing.assert_allclose(found["cut plain mean"], states.mean(0)[:7], rtol=1e-4, atol=1e-4)


def test_a_models_own_head(plan: Plan, prompts: list[list[int]], hidden: list[np.ndarray]) -> None:
    labelled = moved(plan, model_part=f"{__name__}:Labelled").model_copy(update={"tasks": ("classify", "embed")})
    found = vectors(
        core_of(labelled),
        [
            want("label", prompts[3]),
            want("logits", prompts[3], use_activation=False),
            want("embedding", prompts[3], task="embed"),
            want("mean", prompts[4], pooling_type="mean"),
        ],
    )
    logits = hidden[3][-1][:3]
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["label"], np.exp(logits) / np.exp(logits).sum(), atol=TOLERANCE)
    np.testing.assert_allclose(found["embedding"], expected(hidden[3], "last"), atol=TOLERANCE)
    assert found["mean"].sum() == pytest.approx(1)
    several = labelled.model_copy(update={"config": {**plan.config, "problem_type": "multi_label_classification"}})
    (label,) = vectors(core_of(several), [want("label", prompts[3])]).values()
    np.testing.assert_allclose(label, 1 / (1 + np.exp(-logits)), atol=TOLERANCE)


def test_a_score_is_one_probability(plan: Plan, prompts: list[list[int]], hidden: list[np.ndarray]) -> None:
    scored = moved(plan, model_part=f"{__name__}:Scored").model_copy(update={"tasks": ("score",)})
    (score,) = vectors(core_of(scored), [want("score", prompts[2])]).values()
    np.testing.assert_allclose(score, 1 / (1 + np.exp(-hidden[2][-1][:1])), atol=TOLERANCE)


def test_a_prompt_may_fill_the_context(plan: Plan) -> None:
    short = plan.model_copy(update={"max_model_len": 64})
    core = core_of(short)
    assert core.max_model_len == 64
    assert len(vectors(core, [want("whole", [1] * 64)])) == 1
    with pytest.raises(RequestError, match="65 tokens"):
        core.add(want("longer", [1] * 65))


@pytest.mark.parametrize(
    ("params", "prompt", "word"),
    [
        ({}, [], "empty"),
        ({}, [256], "256"),
        ({"task": "classify"}, [1], "does generate, embed"),
        ({"dimensions": 5}, [1], "Matryoshka"),
    ],
)
def test_what_is_refused(plan: Plan, params: dict[str, Any], prompt: list[int], word: str) -> None:
    core = core_of(plan)
    with pytest.raises(RequestError, match=word):
        core.add(want("r", prompt, **params))
    assert core.idle


def test_a_model_for_embeddings_generates_nothing(plan: Plan) -> None:
    core = core_of(plan.model_copy(update={"tasks": ("embed",)}))
    with pytest.raises(RequestError, match="wanted generate"):
        core.add(NewRequest("r", [1], SamplingParams()))
    assert core.idle


def test_numbers_that_are_not_finite_are_an_error(plan: Plan) -> None:
    core = core_of(plan)
    model = core.runner.model
    assert isinstance(model, LlamaForCausalLM)
    model.norm.weight = torch.full_like(model.norm.weight, torch.inf)
    core.add(want("r", [1, 2, 3]))
    ((output,),) = finish(core).values()
    assert (output.finish_reason, output.vector, output.is_request_error) == ("error", None, False)
    assert output.error is not None
    assert "--dtype" in output.error


def test_an_aborted_prompt_leaves_nothing(device_plan: Plan) -> None:
    core = core_of(device_plan, max_num_batched_tokens=16)
    for kind in TYPES:
        core.add(want(kind, list(range(100)), pooling_type=kind))
    for _ in range(3):
        core.step()
    core.abort(TYPES)
    assert finish(core) == {}


def test_sleep_and_wake_up_between_chunks(plan: Plan, prompts: list[list[int]], hidden: list[np.ndarray]) -> None:
    core = core_of(plan, max_num_batched_tokens=16)
    for new in every(prompts[-1:]):
        core.add(new)
    core.step()
    core.sleep(2)
    core.wake_up()
    for name, (output,) in finish(core).items():
        assert output.vector is not None
        wanted = expected(hidden[-1], name.split()[0])
        np.testing.assert_allclose(np.frombuffer(output.vector, "<f4"), wanted, atol=TOLERANCE)

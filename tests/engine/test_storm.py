"""Requests of every kind, arriving and leaving as they like, get what the slow, obvious engine gives; and nothing is left behind."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.args import EngineArgs
from dovetail.engine.messages import NewRequest
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.setup import make_plan
from dovetail.engine.step.core import EngineCore
from dovetail.kernel.plan import Plan

from ..reference_engine import ReferenceEngine
from ..tiny import CONFIG, write_checkpoint

VOCAB = CONFIG["vocab_size"]
LONGEST = 160


@pytest.fixture(scope="module", params=["full", "sliding"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes: dict[str, Any] = {"max_position_embeddings": LONGEST}
    if request.param == "sliding":
        changes |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 21}
    return write_checkpoint(tmp_path_factory.mktemp(request.param), **changes)


@pytest.fixture(scope="module")
def plan(checkpoint: Path) -> Plan:
    return make_plan(EngineArgs(model=str(checkpoint)))


@pytest.fixture(scope="module")
def reference(plan: Plan) -> ReferenceEngine:
    return ReferenceEngine(plan)


def a_request(number: int, rng: random.Random) -> NewRequest:
    """Anything that a request may ask for. Prompts begin alike often, so that prefixes are shared."""
    stem = [(7 * i + 3) % 250 for i in range(rng.choice([0, 8, 24, 40]))]
    prompt = stem + [rng.randrange(VOCAB) for _ in range(rng.randint(1, 50))]
    most = rng.randint(1, 24)
    params = SamplingParams(
        temperature=rng.choice([0.0, 0.0, 0.7, 1.5]),
        top_k=rng.choice([0, 0, 1, 5, 100]),
        top_p=rng.choice([1.0, 1.0, 0.9, 0.3]),
        min_p=rng.choice([0.0, 0.0, 0.1]),
        presence_penalty=rng.choice([0.0, 0.0, 0.0, 1.0]),
        frequency_penalty=rng.choice([0.0, 0.0, 0.0, -0.5]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.0, 1.3]),
        seed=rng.randrange(2**40),
        max_tokens=most,
        min_tokens=rng.choice([0, 0, min(5, most)]),
        ignore_eos=rng.random() < 0.3,
        stop_token_ids=rng.sample(range(VOCAB), rng.choice([0, 0, 20])),
        logit_bias=rng.choice([None, None, {rng.randrange(VOCAB): 3.0, rng.randrange(VOCAB): -100.0}]),
        allowed_token_ids=rng.choice([None, None, None, rng.sample(range(VOCAB), 30)]),
        logprobs=rng.choice([None, None, 0, 3]),
        prompt_logprobs=rng.choice([None, None, None, 1]),
    )
    bad_words = rng.choice([[], [], [[rng.randrange(VOCAB)], [rng.randrange(VOCAB), rng.randrange(VOCAB)]]])
    salt = rng.choice([None, None, None, "salt"])
    return NewRequest(str(number), prompt, params, rng.randrange(3), salt, None, bad_words)


def run_storm(
    core: EngineCore, requests: list[NewRequest], rng: random.Random
) -> tuple[dict[str, list[int]], set[str]]:
    """Requests arrive a few at a time; one in six leaves, while it waits or after some tokens. What each got, and who left."""
    tokens: dict[str, list[int]] = {r.id: [] for r in requests}
    left: set[str] = set()
    coming = list(requests)
    for _ in range(20_000):
        for _ in range(rng.choice([0, 0, 1, 3, 8])):
            if coming:
                core.add(coming.pop(0))
        if core.requests and rng.random() < 0.04:
            leaver = rng.choice(list(core.requests))
            core.abort([leaver])
            left.add(leaver)
        for output in core.step():
            assert output.id not in left, "a request that left is not heard of again"
            tokens[output.id] += output.token_ids
            if output.logprobs is not None:
                assert [entry.ids[0] for entry in output.logprobs] == output.token_ids
        if core.idle and not coming:
            return tokens, left
    raise AssertionError("the storm does not end")


def check_storm(plan: Plan, reference: ReferenceEngine, options: dict[str, Any], count: int, seed: int) -> EngineCore:
    rng = random.Random(seed)
    args = EngineArgs(model="", **options)
    core = EngineCore(plan, args)
    requests = [a_request(i, rng) for i in range(count)]
    got, left = run_storm(core, requests, rng)
    for new in requests:
        wanted = reference.generate(new)
        if new.id in left:
            wanted = wanted[: len(got[new.id])]
        assert got[new.id] == wanted, f"request {new.id} of storm {seed}: {new.params}"
    assert core.kv.is_unused, "blocks leaked"
    assert (core.stats.running, core.stats.waiting, core.stats.kv_usage) == (0, 0, 0.0)
    assert core.requests == {}
    assert len(core.batch._free) == core.max_seqs
    return core


def cache_of(blocks: int, block_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for so many blocks."""
    heads, layers = CONFIG["num_key_value_heads"], CONFIG["num_hidden_layers"]
    dim = CONFIG["hidden_size"] // CONFIG["num_attention_heads"]
    monkeypatch.setenv(
        "DOVETAIL_CPU_KVCACHE_SPACE", str((blocks + 1) * 2 * block_size * heads * dim * layers * 4 / 2**30)
    )


OPTIONS = st.fixed_dictionaries(
    {
        "max_num_seqs": st.sampled_from([1, 3, 16]),
        "max_num_batched_tokens": st.sampled_from([16, 50, 2048]),
        "block_size": st.sampled_from([1, 4, 16]),
        "enable_prefix_caching": st.booleans(),
        "scheduling_policy": st.sampled_from(["fcfs", "priority"]),
        "async_scheduling": st.booleans(),
        "max_decode_slowdown": st.sampled_from([0.0, 1.5]),
    }
)


@pytest.mark.parametrize("storms", [6, pytest.param(30, marks=pytest.mark.sweep)])
def test_a_storm_gives_what_one_at_a_time_gives(plan: Plan, reference: ReferenceEngine, storms: int) -> None:
    @settings(max_examples=storms, deadline=None)
    @given(options=OPTIONS, roomy=st.booleans(), seed=st.integers(0, 2**20))
    def storm(options: dict[str, Any], roomy: bool, seed: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if not roomy:  # little more than the longest request
                cache_of(LONGEST // options["block_size"] + 3, options["block_size"], patch)
            check_storm(plan, reference, options, 24, seed)

    storm()


@pytest.mark.sweep
@pytest.mark.parametrize("async_scheduling", [False, True])
def test_a_storm_of_500(plan: Plan, reference: ReferenceEngine, async_scheduling: bool) -> None:
    check_storm(plan, reference, {"max_num_seqs": 64, "async_scheduling": async_scheduling}, 500, 1)


def test_a_cache_of_a_quarter_of_the_load_finishes_everything(
    plan: Plan, reference: ReferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    requests = [
        NewRequest(
            str(i),
            [rng.randrange(VOCAB) for _ in range(48)],
            SamplingParams(temperature=0, seed=i, max_tokens=32, ignore_eos=True),
        )
        for i in range(8)
    ]
    cache_of(8 * 80 // 4 // 4, 4, monkeypatch)  # eight requests of 80 tokens, in blocks of 4
    core = EngineCore(plan, EngineArgs(model="", max_num_seqs=8, block_size=4))
    got: dict[str, list[int]] = {r.id: [] for r in requests}
    for new in requests:
        core.add(new)
    while not core.idle:
        for output in core.step():
            got[output.id] += output.token_ids
    assert got == reference.generate_all(requests)
    assert core.kv.is_unused
    if len(plan.build_model_config().attention_requirements()) == 1 and plan.config.get("sliding_window") is None:
        assert core.stats.preemptions > 0

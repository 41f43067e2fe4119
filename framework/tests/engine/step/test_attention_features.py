"""Models whose layers ask for features of attention, through the engine: however prompts are computed, and against the same
model computed plainly.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dovetail.api import PluginError, RequestError, ResolutionError
from dovetail.engine.kv.groups import KVCacheGroup
from dovetail.engine.messages import NewRequest
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.request.pooling_params import NO_SAMPLING, PoolingParams
from dovetail.engine.step.core import EngineCore
from dovetail.kernel.plan import Plan

from ..attention_models import (
    LABELS,
    LONGEST,
    GraphPlatform,
    generate,
    hidden_states,
    linear,
    make_args,
    make_plan,
)

NEW = 6
MODELS: dict[str, list[dict[str, Any]]] = {
    "softcaps and every second window": [{"window": 7, "softcap": 1.5}, {"softcap": 1.5}] * 2,
    "sinks": [{"window": 6, "sinks": True}, {"sinks": True}],
    "slopes": [{"alibi_slopes": [0.5, 0.25, 0.125, 0.0625]}, {"alibi_slopes": [0.9, 0.1, 0.2, 0.3], "window": 9}, {}],
    "chunks": [{"chunk": 10}, {}, {"chunk": 10}],
    "shared caches": [{"window": 7}, {}, {"window": 7, "source": 0}, {"source": 1}, {"softcap": 1.5, "source": 1}],
    "values of another size": [{"value_dim": 12}, {}, {"value_dim": 12, "sinks": True, "window": 9}],
    "latent rows": [{"latent": True}, {"latent": True, "window": 8}],
}
WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "in chunks": {"max_num_batched_tokens": 7},
    "preempted": {"num_gpu_blocks_override": 16, "enable_prefix_caching": False},
    "without a prefix cache": {"enable_prefix_caching": False, "max_num_batched_tokens": 20},
}


def make_prompts() -> list[list[int]]:
    rng = random.Random(3)
    start = [rng.randrange(60) for _ in range(22)]
    own = [[rng.randrange(60) for _ in range(n)] for n in (1, 3, 9, 17, 30, 2)]
    return [start + each if i % 2 else each for i, each in enumerate(own)]


def answer(core: EngineCore, prompts: list[list[int]]) -> list[list[int]]:
    params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
    found: dict[str, list[int]] = {str(i): [] for i in range(len(prompts))}
    for i, prompt in enumerate(prompts):
        core.add(NewRequest(str(i), prompt, params))
        for output in core.step():
            found[output.id] += output.token_ids
    while not core.idle:
        for output in core.step():
            found[output.id] += output.token_ids
    assert core.kv.is_unused
    return list(found.values())


@pytest.mark.parametrize("layers", MODELS.values(), ids=MODELS)
def test_tokens_are_those_of_a_plain_computation(layers: list[dict[str, Any]], tmp_path: Path) -> None:
    prompts = make_prompts()
    wanted = [generate(layers, prompt, NEW) for prompt in prompts]
    assert len({tuple(tokens) for tokens in wanted}) == len(wanted)
    plan = make_plan(tmp_path, layers)
    for name, options in WAYS.items():
        core = EngineCore(plan, make_args(**options))
        assert answer(core, prompts) == wanted, name
        if name == "preempted":
            assert core.scheduler.preemptions > 0
        elif name != "without a prefix cache":
            assert answer(core, prompts) == wanted, f"{name}, again"
            assert core.kv.hits > 2 * 20
    core = EngineCore(make_plan(tmp_path, layers, platform=GraphPlatform), make_args())
    assert answer(core, prompts) == wanted, "with graphs"


def test_layers_that_see_the_same_share_blocks_and_only_owners_have_memory(tmp_path: Path) -> None:
    core = EngineCore(make_plan(tmp_path, MODELS["shared caches"]), make_args())
    attention = core.runner.ctx.attention_layers
    row = 4 * 2 * (8 + 8) * 4  # block_size tokens, K heads, channels of key and value, bytes
    assert core.runner.groups == [KVCacheGroup(row, window=7), KVCacheGroup(row)]
    assert [layer.group for layer in attention] == [0, 1, 0, 1, 1]
    assert [layer.cache is not None for layer in attention] == [True, True, False, False, False]
    core = EngineCore(make_plan(tmp_path, MODELS["chunks"]), make_args())
    assert core.runner.groups == [KVCacheGroup(2 * row, chunk=10), KVCacheGroup(row)]
    core = EngineCore(make_plan(tmp_path, MODELS["latent rows"]), make_args())
    assert core.runner.groups == [KVCacheGroup(4 * 20 * 4), KVCacheGroup(4 * 20 * 4, window=8)]
    core = EngineCore(make_plan(tmp_path, MODELS["values of another size"]), make_args())
    wide = 4 * 2 * (8 + 12) * 4
    assert core.runner.groups == [KVCacheGroup(wide + row), KVCacheGroup(wide, window=9)]


def test_blocks_before_the_chunk_are_given_up(tmp_path: Path) -> None:
    core = EngineCore(make_plan(tmp_path, [{"chunk": 8}]), make_args(enable_prefix_caching=False))
    core.add(NewRequest("r", [1] * 60, SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)))
    held = []
    while not core.idle:
        core.step()
        held += [core.kv.pools[0].num_used] if core.requests else []
    assert max(held[2:]) <= 3


# -- layers that keep no cache

ENCODER: list[dict[str, Any]] = [{"causal": False, "window": 5}, {"causal": False}, {"causal": False, "softcap": 1.5}]


def encoder_plan(folder: Path, tasks: tuple[str, ...] = ("embed", "classify"), **options: Any) -> Plan:
    return make_plan(folder, ENCODER, **{"model": "Encoder", "tasks": tasks, **options})


def vectors(core: EngineCore, prompts: list[list[int]], **params: Any) -> list[np.ndarray]:
    for i, prompt in enumerate(prompts):
        core.add(NewRequest(str(i), prompt, NO_SAMPLING, pooling=PoolingParams(**params)))
    found: dict[str, np.ndarray] = {}
    while not core.idle:
        for output in core.step():
            assert output.error is None
            assert output.vector is not None
            found[output.id] = np.frombuffer(output.vector, np.float32)
    assert core.kv.is_unused
    return [found[str(i)] for i in range(len(prompts))]


@pytest.mark.parametrize("platform", [None, GraphPlatform], ids=["host", "graphs"])
@pytest.mark.parametrize("steps", [2048, LONGEST])
def test_vectors_are_those_of_a_plain_computation(platform: Any, steps: int, tmp_path: Path) -> None:
    options = {"platform": platform} if platform else {}
    core = EngineCore(encoder_plan(tmp_path, **options), make_args(max_num_batched_tokens=steps))
    prompts = [*make_prompts(), [5] * LONGEST, [6, 7] * (LONGEST // 2)]
    states = [hidden_states(ENCODER, prompt).numpy() for prompt in prompts]
    for _ in range(2):  # nothing is kept that a second time could find
        for pooling_type, of in (("mean", lambda x: x.mean(0)), ("cls", lambda x: x[0]), ("last", lambda x: x[-1])):
            found = vectors(core, prompts, task="embed", pooling_type=pooling_type, use_activation=False)
            for one, state in zip(found, states, strict=True):
                np.testing.assert_allclose(one, of(state), rtol=1e-3, atol=1e-3)
    logits = vectors(core, prompts, task="classify", pooling_type="cls", use_activation=False)

    for one, state in zip(logits, states, strict=True):
        wanted = linear(torch.from_numpy(state[0]), "labels", LABELS)
        np.testing.assert_allclose(one, wanted.numpy(), rtol=1e-3, atol=1e-3)
    assert (core.runner.groups, core.num_blocks) == ([], [])
    assert (core.kv.hits, core.kv.usage) == (0, 0.0)
    assert core.max_model_len == LONGEST


def test_a_prompt_that_does_not_fit_into_a_step_waits_for_the_next(tmp_path: Path) -> None:
    core = EngineCore(encoder_plan(tmp_path), make_args(max_num_batched_tokens=LONGEST))
    for i, length in enumerate((60, 50, 20, LONGEST)):
        core.add(NewRequest(str(i), [i] * length, NO_SAMPLING, pooling=PoolingParams()))
    steps: list[list[int]] = []
    schedule = core.scheduler.schedule

    def recorded() -> Any:
        step = schedule()
        steps.append(list(step.tokens.values()))
        return step

    core.scheduler.schedule = recorded  # type: ignore[method-assign]
    while not core.idle:
        core.step()
    assert [step for step in steps if step] == [[60], [50, 20], [LONGEST]]


def test_steps_hold_the_longest_prompt(tmp_path: Path) -> None:
    plan = encoder_plan(tmp_path)
    long = plan.model_copy(update={"max_model_len": 5000})
    core = EngineCore(long, make_args())
    assert core.max_tokens == core.scheduler.max_tokens == 5000, "the default is raised"
    with pytest.raises(
        ResolutionError, match=r"--max-num-batched-tokens is 50, and .* in one step, of up to 96 tokens"
    ):
        EngineCore(plan, make_args(max_num_batched_tokens=50))
    with pytest.raises(ResolutionError, match=r"--max-num-batched-tokens is 2048, and .* of up to 5000 tokens"):
        EngineCore(long, make_args(max_num_batched_tokens=2048))  # which was asked for, though it is the usual number


def test_such_a_model_does_not_generate(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, ENCODER, tasks=("generate",))
    assert plan.tasks == ("embed",)
    assert "every token sees the whole prompt, so it cannot generate" in plan.tasks_reason
    core = EngineCore(plan, make_args())
    with pytest.raises(RequestError, match="so it cannot generate"):
        core.add(NewRequest("r", [1, 2], SamplingParams()))
    (vector,) = vectors(core, [[1, 2, 3]])
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert make_plan(tmp_path, ENCODER, tasks=("generate", "classify")).tasks == ("classify",)
    with pytest.raises(
        ResolutionError, match=r"wanted generate .*; with this configuration every token sees the whole"
    ):
        make_plan(tmp_path, ENCODER, tasks=("generate",), runner="generate")


def test_layers_with_and_without_a_cache_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="either bidirectional in all of its layers, or in none"):
        make_plan(tmp_path, [{"causal": False}, {}])


# -- what was not planned


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ([{}, {"softcap": 1.5}], "softcap attention"),
        ([{"softcap": 1.5}, {"softcap": 1.5, "sinks": True}], "sinks attention"),
        ([{}, {"alibi_slopes": [0.5] * 4}], "alibi attention"),
        ([{"window": 4}, {"chunk": 4}], "chunked attention"),
        ([{}, {"value_dim": 12}], "heads of 8 with values of 12"),
        ([{}, {"latent": True}], "heads of 20 with values of 16"),
        ([{}, {"causal": False}], "bidirectional attention"),
        ([{"causal": False}, {}], "causal attention"),
    ],
)
def test_a_layer_that_asks_for_more_than_was_planned_is_refused(
    layers: list[dict[str, Any]], told: str, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path, layers, config="Secretive")
    with pytest.raises(
        PluginError,
        match=f"the model tiny of under-test 0: its attention layer layers.1.attention asks for {told}, which",
    ):
        EngineCore(plan, make_args())


def test_a_layer_may_ask_for_less(tmp_path: Path) -> None:
    EngineCore(make_plan(tmp_path, [{"window": 4, "softcap": 1.5}, {"softcap": 1.5}], config="Secretive"), make_args())


def test_what_was_planned_survives_json(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, MODELS["latent rows"])
    again = Plan.model_validate_json(plan.model_dump_json())
    assert again.attention_requirements == plan.attention_requirements
    assert not plan.computes_whole_prompts
    assert encoder_plan(tmp_path).computes_whole_prompts

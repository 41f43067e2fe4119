"""The engine with real plugins: whatever shares its batch, a request gets the tokens that it would get alone."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from dovetail import LLM, SamplingParams
from dovetail.api import RequestError, ResolutionError
from dovetail.engine.args import EngineArgs
from dovetail.engine.engine_request import Request
from dovetail.engine.messages import NewRequest, TokenOutput
from dovetail.engine.request.params import StructuredOutputs
from dovetail.engine.setup import make_plan
from dovetail.engine.step.core import EngineCore

from ..tiny import write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


def make_core(checkpoint: Path, **options: Any) -> EngineCore:
    args = EngineArgs(model=str(checkpoint), **{"max_num_seqs": 16, "block_size": 4, **options})
    return EngineCore(make_plan(args), args)


def make_requests(count: int, seed: int) -> list[NewRequest]:
    rng = random.Random(seed)
    return [
        NewRequest(
            str(i),
            [rng.randrange(255) for _ in range(rng.randint(1, 60))],
            SamplingParams(
                temperature=rng.choice([0.0, 0.0, 0.8]),
                top_k=rng.choice([0, 5]),
                top_p=rng.choice([1.0, 0.9]),
                seed=i,
                repetition_penalty=rng.choice([1.0, 1.2]),
                max_tokens=rng.randint(1, 24),
                ignore_eos=rng.random() < 0.5,
            ),
        )
        for i in range(count)
    ]


def run(
    core: EngineCore, requests: list[NewRequest], *, cancel: frozenset[str] = frozenset(), seed: int = 0
) -> dict[str, list[int]]:
    """Requests arriving a few at a time; those in ``cancel`` leave after their first token."""
    rng, tokens, waiting = random.Random(seed), {r.id: [] for r in requests}, list(requests)
    while waiting or not core.idle:
        for _ in range(rng.randint(0, 4)):
            if waiting:
                core.add(waiting.pop(0))
        for output in core.step():
            tokens[output.id] += output.token_ids
            if output.id in cancel:
                core.abort([output.id])
    return tokens


@pytest.fixture(scope="module")
def alone(checkpoint: Path) -> dict[str, list[int]]:
    core = make_core(checkpoint, max_num_seqs=1, max_num_batched_tokens=512)
    return run(core, make_requests(60, 1))


@pytest.mark.parametrize(
    "options",
    [{}, {"max_num_batched_tokens": 16}, {"max_num_seqs": 3}, {"max_num_batched_tokens": 7, "block_size": 16}],
    ids=["wide", "chunked", "narrow", "odd"],
)
def test_a_batch_gives_the_tokens_of_one_at_a_time(
    checkpoint: Path, alone: dict[str, list[int]], options: dict[str, Any]
) -> None:
    core = make_core(checkpoint, **options)
    assert run(core, make_requests(60, 1)) == alone
    assert core.kv.is_unused
    assert core.requests == {}


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_top_k_of_the_whole_vocabulary_is_none(checkpoint: Path, top_p: float) -> None:
    core = make_core(checkpoint)
    sizes = (0, -1, core.vocab_size, core.vocab_size + 1, 2**40)
    params = [SamplingParams(seed=3, temperature=1.5, top_k=k, top_p=top_p, ignore_eos=True) for k in sizes]
    tokens = run(core, [NewRequest(str(i), [1, 2, 3], each) for i, each in enumerate(params)])
    assert len(set(map(tuple, tokens.values()))) == 1
    fewer = SamplingParams(seed=3, temperature=1.5, top_k=core.vocab_size - 1, top_p=top_p, ignore_eos=True)
    assert len(run(core, [NewRequest("fewer", [1, 2, 3], fewer)])["fewer"]) == 16


def test_cancelled_requests_leave_nothing_behind(checkpoint: Path, alone: dict[str, list[int]]) -> None:
    core = make_core(checkpoint)
    cancelled = frozenset(str(i) for i in range(0, 60, 3))
    tokens = run(core, make_requests(60, 1), cancel=cancelled)
    assert {k: v for k, v in tokens.items() if k not in cancelled} == {
        k: v for k, v in alone.items() if k not in cancelled
    }
    assert core.kv.is_unused
    assert core.idle
    assert len(core.batch._free) == 16


def test_logits_and_greedy_tokens_are_those_of_transformers(checkpoint: Path) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    llm = LLM(str(checkpoint), use_tqdm=False)
    prompt = torch.randint(255, (150,), generator=torch.Generator().manual_seed(3)).tolist()
    (output,) = llm.generate({"prompt_token_ids": prompt}, SamplingParams(temperature=0, max_tokens=24), use_tqdm=False)
    with torch.inference_mode():
        theirs = reference.generate(
            torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=255, pad_token_id=0
        )
    assert output.outputs[0].token_ids == theirs[0, len(prompt) :].tolist()


def test_a_sliding_window_reaches_the_engine(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_checkpoint(tmp_path, architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=20)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    core = make_core(folder, max_num_batched_tokens=13)
    prompt = torch.randint(255, (70,), generator=torch.Generator().manual_seed(3)).tolist()
    tokens = run(core, [NewRequest("r", prompt, SamplingParams(temperature=0, max_tokens=24))])["r"]
    with torch.inference_mode():
        theirs = reference.generate(
            torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=255, pad_token_id=0
        )
    assert tokens == theirs[0, len(prompt) :].tolist()


def test_the_offline_api_takes_every_shape_of_prompt(checkpoint: Path) -> None:
    llm = LLM(str(checkpoint), use_tqdm=False)
    params = SamplingParams(temperature=0, max_tokens=4)
    shapes: list[Any] = ["ab", {"prompt": "ab"}, {"prompt_token_ids": llm.get_tokenizer().encode("ab")}]
    outputs = llm.generate(shapes, params, use_tqdm=False)
    assert len({tuple(o.outputs[0].token_ids) for o in outputs}) == 1
    assert outputs[0].prompt == "ab"
    assert all(o.finished and o.metrics and o.metrics.finished_time for o in outputs)
    both = llm.generate(["ab", "cd"], [params, SamplingParams(n=2, max_tokens=2, ignore_eos=True)], use_tqdm=False)
    assert [len(o.outputs) for o in both] == [1, 2]


@pytest.mark.parametrize(
    "prompt", [{"prompt_token_ids": []}, {"prompt_token_ids": [999]}, {"prompt_token_ids": [1] * 512}, 7]
)
def test_a_bad_prompt_is_refused_and_the_next_call_works(checkpoint: Path, prompt: Any) -> None:
    llm = LLM(str(checkpoint), use_tqdm=False)
    with pytest.raises(RequestError):
        llm.generate(["fine", prompt], SamplingParams(max_tokens=2), use_tqdm=False)
    assert llm.generate("fine", SamplingParams(max_tokens=2, ignore_eos=True), use_tqdm=False)[0].finished


def test_parameters_that_do_not_hold_leave_the_next_call_whole(checkpoint: Path) -> None:
    llm, bad = LLM(str(checkpoint), use_tqdm=False), SamplingParams()
    bad.top_p = 7.0
    with pytest.raises(RequestError, match="top_p"):
        llm.generate(["a", "b"], [SamplingParams(max_tokens=2), bad], use_tqdm=False)
    assert llm.generate("c", SamplingParams(max_tokens=2, ignore_eos=True), use_tqdm=False)[0].finished


def test_overrides_may_be_a_function(checkpoint: Path) -> None:
    llm = LLM(str(checkpoint), use_tqdm=False, hf_overrides=lambda config: {**config, "max_position_embeddings": 64})
    assert llm.plan.max_model_len == 64


def test_prompt_logprobs_are_whole_after_a_preemption(checkpoint: Path) -> None:
    core = make_core(checkpoint, max_num_batched_tokens=64)
    prompt = [(7 * i) % 250 for i in range(150)]
    for first, second in ((64, 50), (40, 64)):  # the prompt is computed anew in chunks of another size
        core.scheduler.max_tokens = first
        core.add(NewRequest("r", prompt, SamplingParams(max_tokens=1, prompt_logprobs=0)))
        core.step()
        for request in core.scheduler.preempt_all():
            core._remove_from_batch(request)
        core.scheduler.max_tokens = second
        found = [o.prompt_logprobs for _ in range(9) for o in core.step()]
        assert [[entry.ids[0] for entry in entries or ()] for entries in found] == [prompt[1:]]


def test_a_request_may_leave_before_its_grammar_turns_out_not_to_compile(checkpoint: Path) -> None:
    core = make_core(checkpoint)
    params = SamplingParams(max_tokens=4, structured_outputs=StructuredOutputs(regex="((("))
    core.add(NewRequest("leaves", [1, 2], params))
    grammar = core.requests["leaves"].grammar
    assert grammar is not None
    core.abort(["leaves"])
    core.add(NewRequest("leaves", [1, 2], SamplingParams(max_tokens=4, ignore_eos=True)))  # another one of its name
    assert grammar.wait(60)
    assert [o.error for _ in range(9) for o in core.step()] == [None] * 4


def test_what_an_interrupted_step_did_not_compute_is_not_shared(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = make_core(checkpoint)
    new = NewRequest("r", list(range(20)), SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(core.runner, "launch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(core, [new])
    core.abort(["r"])
    assert core.kv.find_prefix(Request("q", new.prompt_token_ids, new.params, 20, 28, frozenset())).tokens == 0
    assert run(core, [new]) == run(make_core(checkpoint, enable_prefix_caching=False), [new])


def test_time_without_work_is_no_steps_time(checkpoint: Path) -> None:
    core = make_core(checkpoint, max_decode_slowdown=2.0)
    core.add(NewRequest("leaves", [1, 2, 3], SamplingParams(max_tokens=50, ignore_eos=True)))
    core.step()
    core.abort(["leaves"])
    core._step_start -= 3600
    run(core, [NewRequest("r", [3] * 100, SamplingParams(max_tokens=1))])
    assert core.prefill_limiter._seconds_per_token is not None
    assert core.prefill_limiter._seconds_per_token < 1


def test_a_request_that_leaves_no_token_ends_with_the_reason_and_the_batch_goes_on(checkpoint: Path) -> None:
    for options in ({}, {"async_scheduling": True}):
        core = make_core(checkpoint, **options)
        greedy = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
        # Two bad words of two tokens: after either allowed token, both are forbidden.
        bad = [[5, 5], [5, 6], [6, 5], [6, 6]]
        stuck = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, allowed_token_ids=[5, 6], logprobs=1)
        core.add(NewRequest("stuck", [1, 2, 3], stuck, bad_words=bad))
        core.add(NewRequest("fine", [1, 2, 3], greedy))
        outputs: dict[str, list[TokenOutput]] = {"stuck": [], "fine": []}
        while not core.idle:
            for output in core.step():
                outputs[output.id].append(output)
        assert sum(len(o.token_ids) for o in outputs["fine"]) == 6
        first, last = outputs["stuck"]
        assert first.token_ids[0] in (5, 6)
        assert (last.token_ids, last.finish_reason, last.is_request_error) == ([], "error", True)
        assert last.error is not None
        assert "no token may be chosen" in last.error
        assert core.kv.is_unused


def test_the_kv_cache_has_the_memory_or_the_blocks_that_were_asked_for(checkpoint: Path) -> None:
    (group,) = make_core(checkpoint).runner.groups
    options = {"max_num_seqs": 1, "max_model_len": 64, "gpu_memory_utilization": 0.01}
    core = make_core(checkpoint, kv_cache_memory_bytes=100 * group.block_bytes, **options)
    assert core.num_blocks == [100]  # more than twice what could be in use
    core = make_core(checkpoint, num_gpu_blocks_override=20, kv_cache_memory_bytes="1G", **options)
    assert core.memory_budget.tokens == 20 * 4
    with pytest.raises(ResolutionError, match=r"--max-model-len 64 was asked for, but the KV cache holds 20 tokens"):
        make_core(checkpoint, num_gpu_blocks_override=5, **options)
    with pytest.raises(ResolutionError, match=r"--kv-cache-memory-bytes \d+ asks for a KV cache of .* are free"):
        make_core(checkpoint, kv_cache_memory_bytes="900T", **options)
    with pytest.raises(ResolutionError, match="at least 2 blocks"):
        make_core(checkpoint, kv_cache_memory_bytes=1, **options)


@pytest.mark.parametrize("options", [{}, {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}}])
def test_processed_logprobs_are_those_that_tokens_were_drawn_by(checkpoint: Path, options: dict[str, Any]) -> None:
    params = SamplingParams(temperature=0.7, top_k=3, seed=5, max_tokens=16, logprobs=5, repetition_penalty=0.9)
    greedy = SamplingParams(temperature=0, max_tokens=16, logprobs=1)
    llm = LLM(str(checkpoint), logprobs_mode="processed_logprobs", max_model_len=128, use_tqdm=False, **options)
    outputs = llm.generate([[5, 6, 7, 5, 6, 7, 5, 6]] * 2, [params, greedy], use_tqdm=False)
    drawn, likeliest = (output.outputs[0].logprobs or [] for output in outputs)
    for position in drawn:
        chances = [found.logprob for found in position.values() if found.logprob > -float("inf")]
        assert len(chances) == 3
        assert sum(map(math.exp, chances)) == pytest.approx(1, abs=1e-4)
    assert all(math.exp(sum(found.logprob for found in position.values())) < 1 for position in likeliest)
    with pytest.raises(RequestError, match="best_of"):
        LLM(str(checkpoint), logprobs_mode="raw_logits", max_model_len=128, use_tqdm=False).generate(
            [[5]], SamplingParams(best_of=2), use_tqdm=False
        )

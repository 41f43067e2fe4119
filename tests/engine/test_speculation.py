"""Speculative decoding with a real model: every output is token for token what it is without, and good guesses save steps."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from dovetail import LLM, SamplingParams
from dovetail.api import DraftRequest, Proposer
from dovetail.builtin import dovetail_register_proposers
from dovetail.engine.args import EngineArgs
from dovetail.engine.messages import NewRequest, TokenLogprobs
from dovetail.engine.request.params import StructuredOutputs
from dovetail.engine.setup import make_plan
from dovetail.engine.step.core import EngineCore
from dovetail.engine.step.draft_model import DraftModel
from dovetail.testing import check_proposer

from ..tiny import write_checkpoint

LOOKUP = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("smaller"), num_hidden_layers=1)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("windowed")
    return write_checkpoint(folder, architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=20)


def make_core(checkpoint: Path, **options: Any) -> EngineCore:
    args = EngineArgs(model=str(checkpoint), **{"max_num_seqs": 16, "block_size": 4, **options})
    return EngineCore(make_plan(args), args)


def make_requests(count: int, seed: int) -> list[NewRequest]:
    """Of every kind that could be told apart by how its tokens are found."""
    rng = random.Random(seed)
    requests = []
    for i in range(count):
        prompt = [rng.randrange(255) for _ in range(rng.randint(1, 30))]
        output = rng.randint(1, 30)
        requests.append(
            NewRequest(
                str(i),
                prompt * rng.choice([1, 1, 2]),
                SamplingParams(
                    temperature=rng.choice([0.0, 0.0, 0.7, 1.0]),
                    top_k=rng.choice([0, 0, 5]),
                    top_p=rng.choice([1.0, 1.0, 0.9]),
                    min_p=rng.choice([0.0, 0.0, 0.05]),
                    seed=rng.choice([None, i, i % 3]),
                    repetition_penalty=rng.choice([1.0, 1.0, 1.2]),
                    frequency_penalty=rng.choice([0.0, 0.0, 0.5]),
                    logit_bias=rng.choice([None, None, {7: 5.0}]),
                    max_tokens=output,
                    min_tokens=rng.choice([0, output // 2]),
                    stop_token_ids=[rng.randrange(255) for _ in range(rng.choice([0, 20]))],
                    ignore_eos=rng.random() < 0.5,
                    logprobs=rng.choice([None, None, 0, 3]),
                    prompt_logprobs=rng.choice([None, None, None, 1]),
                ),
                bad_words=[[9], [3, 4]] if rng.random() < 0.2 else [],
            )
        )
    return requests


@dataclass
class Got:
    """A request's whole answer."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    end: tuple[Any, ...] = ()
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list, compare=False)


def run(core: EngineCore, requests: list[NewRequest], at_once: int | None = None) -> dict[str, Got]:
    """Requests arriving a few at a time, or so many."""
    rng, found, waiting = random.Random(0), {r.id: Got() for r in requests}, list(requests)
    while waiting or not core.idle:
        for _ in range(rng.randint(0, 4) if at_once is None else at_once):
            if waiting:
                core.add(waiting.pop(0))
        for output in core.step():
            got = found[output.id]
            got.tokens += output.token_ids
            got.logprobs += output.logprobs or []
            got.prompt_logprobs += output.prompt_logprobs or []
            got.end = (output.finish_reason, output.stop_reason)
    assert core.kv.is_unused
    assert core.requests == {}
    return found


@pytest.fixture(scope="module")
def plain(checkpoint: Path) -> dict[str, Got]:
    """Without speculation."""
    found = run(make_core(checkpoint), make_requests(60, 1))
    reasons = {got.end[0] for got in found.values()}
    assert reasons == {"stop", "length"}
    return found


class Oracle(Proposer):
    """Knows each answer, and errs in a share of the tokens.

    Args:
        answers: request → its whole output.
        prompts: request → length of its prompt.
    """

    def __init__(self, answers: Mapping[str, Sequence[int]], prompts: Mapping[str, int], wrong: float = 0.0) -> None:
        self.answers, self.prompts, self.wrong = answers, prompts, wrong
        self.rng = random.Random(5)

    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        return [self._guess(s) for s in sequences]

    def _guess(self, sequence: DraftRequest) -> list[int]:
        place = len(sequence.tokens) - self.prompts[sequence.id]
        answer = list(self.answers[sequence.id][place : place + sequence.max_tokens])
        # Beyond the answer's end it goes on all the same, which the engine must not follow.
        answer += [11] * (sequence.max_tokens - len(answer))
        return [self.rng.randrange(255) if self.rng.random() < self.wrong else token for token in answer]

    def forget(self, ids: Iterable[str]) -> None:
        """Nothing is kept."""


class Garbage(Oracle):
    def __init__(self) -> None:
        super().__init__({}, {})

    def _guess(self, sequence: DraftRequest) -> list[int]:
        return [self.rng.randrange(255) for _ in range(sequence.max_tokens)]


def guided(checkpoint: Path, proposer: Proposer | None, tokens: int = 4, **options: Any) -> EngineCore:
    """A core whose guesses come from this proposer."""
    core = make_core(checkpoint, speculative_config={**LOOKUP, "num_speculative_tokens": tokens}, **options)
    assert core.speculation is not None
    if proposer is not None:
        core.speculation.proposer = proposer
    return core


def oracle(requests: list[NewRequest], answers: Mapping[str, Got], wrong: float = 0.0) -> Oracle:
    prompts = {r.id: len(r.prompt_token_ids) for r in requests}
    return Oracle({id: got.tokens for id, got in answers.items()}, prompts, wrong)


OPTIONS = {
    "wide": {},
    "chunked": {"max_num_batched_tokens": 16},
    "narrow": {"max_num_seqs": 3},
    "odd": {"max_num_batched_tokens": 7, "block_size": 16},
    "no prefix cache": {"enable_prefix_caching": False},
    "long guesses": {"tokens": 9},
}


@pytest.mark.parametrize("wrong", [0.0, 0.15, 0.6])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_outputs_are_those_without(
    checkpoint: Path, plain: dict[str, Got], options: dict[str, Any], wrong: float
) -> None:
    requests = make_requests(60, 1)
    core = guided(checkpoint, oracle(requests, plain, wrong), **options)
    assert run(core, requests) == plain
    assert core.speculation is not None
    assert not core.speculation.disabled
    assert core.stats.num_accepted_tokens > 0
    if not wrong:
        # What an answer's end cuts off is all that can be wrong; a request ends with at most one such guess.
        assert core.stats.num_draft_tokens - core.stats.num_accepted_tokens <= 60 * 9
    else:
        assert core.stats.num_accepted_tokens < core.stats.num_draft_tokens


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_prompt_lookup_changes_nothing(checkpoint: Path, plain: dict[str, Got], options: dict[str, Any]) -> None:
    core = guided(checkpoint, None, **options)
    assert run(core, make_requests(60, 1)) == plain
    assert core.stats.num_draft_tokens > core.stats.num_accepted_tokens > 0


def test_a_small_cache_finishes_everything_by_preemption(checkpoint: Path, plain: dict[str, Got]) -> None:
    requests = make_requests(60, 1)
    core = guided(checkpoint, oracle(requests, plain, 0.3), max_model_len=96)
    (pool,) = core.kv.pools
    spare = pool.allocate(pool.num_free - 30)  # what is left holds about two of the requests
    assert spare is not None
    found: dict[str, Got] = {r.id: Got() for r in requests}
    for request in requests:
        core.add(request)
    while not core.idle:
        for output in core.step():
            found[output.id].tokens += output.token_ids
    assert {id: got.tokens for id, got in found.items()} == {id: got.tokens for id, got in plain.items()}
    assert core.stats.preemptions > 0
    assert core.stats.num_accepted_tokens > 0
    assert pool.num_free == 30


def test_a_sliding_window_forgets_nothing_that_a_wrong_guess_needs(windowed: Path) -> None:
    requests = make_requests(40, 2)
    answers = run(make_core(windowed), requests)
    for wrong in (0.0, 0.3):
        core = guided(windowed, oracle(requests, answers, wrong), tokens=9)
        assert run(core, requests) == answers
        assert core.stats.num_accepted_tokens > 0


def count_steps(core: EngineCore, requests: list[NewRequest]) -> int:
    for request in requests:
        core.add(request)
    steps = 0
    while not core.idle:
        core.step()
        steps += 1
    return steps


@pytest.mark.parametrize("tokens", [1, 4, 7])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_right_guesses_save_steps(checkpoint: Path, tokens: int, temperature: float) -> None:
    params = SamplingParams(temperature=temperature, seed=3, max_tokens=65, ignore_eos=True)
    requests = [NewRequest(str(i), [i, 2 * i, 3 * i], params) for i in range(4)]
    answers = run(make_core(checkpoint), requests)
    core = guided(checkpoint, oracle(requests, answers), tokens)
    # One step for the prompt and the first token; each one after it gives tokens + 1.
    assert count_steps(core, requests) == 1 + -(-64 // (tokens + 1))
    assert core.stats.num_draft_tokens == core.stats.num_accepted_tokens


def test_wrong_guesses_cost_no_step_and_soon_cease(checkpoint: Path, plain: dict[str, Got]) -> None:
    assert run(guided(checkpoint, Garbage()), make_requests(60, 1)) == plain
    params = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
    core = guided(checkpoint, Garbage())
    assert count_steps(core, [NewRequest("r", [1, 2, 3], params)]) == 200
    assert core.stats.num_draft_tokens <= 4 + 2 + 1 + 1 + 10


def test_a_proposer_that_breaks_takes_no_request_with_it(checkpoint: Path, plain: dict[str, Got]) -> None:
    class Breaks(Garbage):
        calls = 0

        def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
            self.calls += 1
            assert self.calls < 9, "it breaks"
            return super().propose(sequences)

    core = guided(checkpoint, Breaks())
    assert run(core, make_requests(60, 1)) == plain
    assert core.speculation is not None
    assert core.speculation.disabled


def test_completions_of_one_prompt_differ_and_are_those_without(checkpoint: Path) -> None:
    params = SamplingParams(n=4, temperature=0.8, seed=1, max_tokens=24, ignore_eos=True)
    prompts = [{"prompt_token_ids": [5, 6, 7, 8] * 4}, {"prompt_token_ids": [1, 2, 1, 2, 1]}]
    found = [
        [[c.token_ids for c in o.outputs] for o in llm.generate(prompts, params, use_tqdm=False)]
        for llm in (
            LLM(str(checkpoint), use_tqdm=False),
            LLM(str(checkpoint), use_tqdm=False, speculative_config=LOOKUP),
        )
    ]
    assert found[0] == found[1]
    assert len({tuple(tokens) for tokens in found[0][0]}) == 4


@pytest.mark.parametrize("draft", [False, True], ids=["lookup", "draft model"])
def test_forms_are_kept(checkpoint: Path, draft: bool) -> None:
    forms = ["(ab|cd|ef){12}", "(one|two|three)( (one|two|three)){5}", "[a-z]+@[a-z]+", "a{30}"]
    params = [
        SamplingParams(temperature=t, seed=i, max_tokens=40, structured_outputs=StructuredOutputs(regex=form))
        for i, form in enumerate(forms)
        for t in (0.0, 1.0)
    ]
    requests = [NewRequest(str(i), [66, 67, 66, 67, 66, 67], p) for i, p in enumerate(params)]
    plain = run(make_core(checkpoint), requests)
    core = drafted(checkpoint, checkpoint, tokens=5) if draft else guided(checkpoint, None)
    assert run(core, requests) == plain
    assert core.stats.num_accepted_tokens > 20


def test_draws_without_a_seed_follow_the_same_distribution(checkpoint: Path) -> None:
    """Chi-square of the second and third tokens, with the likeliest first guess and without."""
    prompt, draws = [5, 6, 7, 8], 1200

    def second_tokens(core: EngineCore) -> tuple[list[dict[int, int]], EngineCore]:
        params = SamplingParams(temperature=1.0, max_tokens=3, ignore_eos=True)
        found = run(core, [NewRequest(str(i), prompt, params) for i in range(draws)], at_once=draws)
        counts: list[dict[int, int]] = [{}, {}]
        for got in found.values():
            for place in (1, 2):
                token = got.tokens[place]
                counts[place - 1][token] = counts[place - 1].get(token, 0) + 1
        return counts, core

    class Likely(Garbage):
        def _guess(self, sequence: DraftRequest) -> list[int]:
            return likeliest[: sequence.max_tokens]

    without, _ = second_tokens(make_core(checkpoint, seed=1, max_num_seqs=256))
    likeliest = [max(counts, key=lambda token: counts[token]) for counts in without]
    guessed, core = second_tokens(guided(checkpoint, Likely(), tokens=2, seed=2, max_num_seqs=256))
    assert core.stats.num_accepted_tokens > 0.02 * draws
    for a, b in zip(without, guessed, strict=True):
        common = [t for t in a if a[t] + b.get(t, 0) >= 10]
        rest_a, rest_b = draws - sum(a[t] for t in common), draws - sum(b.get(t, 0) for t in common)
        pairs = [(a[t], b.get(t, 0)) for t in common] + [(rest_a, rest_b)]
        chi = sum((x - y) ** 2 / (x + y) for x, y in pairs if x + y)
        degrees = len(pairs) - 1
        assert degrees > 5
        assert chi < degrees + 4 * (2 * degrees) ** 0.5


# Draft models.


def drafted(checkpoint: Path, draft: Path, tokens: int = 3, draft_options: Any = None, **options: Any) -> EngineCore:
    config = {"model": str(draft), "num_speculative_tokens": tokens, **(draft_options or {})}
    return make_core(checkpoint, speculative_config=config, **options)


def proposer_of(core: EngineCore) -> DraftModel:
    assert core.speculation is not None
    assert not core.speculation.disabled
    return cast(DraftModel, core.speculation.proposer)


def watch(proposer: DraftModel) -> list[tuple[list[int], list[int]]]:
    """Everything that it guesses from here on: the tokens before, and the guess."""
    seen: list[tuple[list[int], list[int]]] = []
    propose = proposer.propose

    def propose_and_tell(sequences: Sequence[DraftRequest]) -> list[list[int]]:
        tokens = [list(s.tokens) for s in sequences]
        guesses = propose(sequences)
        seen.extend(zip(tokens, map(list, guesses), strict=True))
        return guesses

    proposer.propose = propose_and_tell  # type: ignore[method-assign]
    return seen


def assert_greedy(draft: Path, seen: list[tuple[list[int], list[int]]]) -> None:
    """Every guess is what the draft model itself would say, computed from nothing."""
    core = make_core(draft, max_num_seqs=64, enable_prefix_caching=False)
    guesses = [(tokens, guess) for tokens, guess in seen if guess]
    assert guesses
    # One step for each: all tokens of a guess but the last are given to it, and it says how likely they were.
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, prompt_logprobs=0)
    requests = [NewRequest(str(i), tokens + guess[:-1], params) for i, (tokens, guess) in enumerate(guesses)]
    found = run(core, requests, at_once=len(requests))
    for request, (tokens, guess) in zip(requests, guesses, strict=True):
        got = found[request.id]
        assert got.tokens == guess[-1:]
        # The first one is that of the second token.
        assert [given.rank for given in got.prompt_logprobs[len(tokens) - 1 :]] == [1] * (len(guess) - 1)


DRAFTS = {
    "wide": {},
    "chunked": {"max_num_batched_tokens": 16},
    "narrow": {"max_num_seqs": 3},
    "long guesses": {"tokens": 8},
    "short context": {"draft_options": {"max_model_len": 40}},
}


@pytest.mark.parametrize("options", DRAFTS.values(), ids=DRAFTS)
def test_a_draft_model_s_guesses_are_its_own_likeliest_tokens(
    checkpoint: Path, smaller: Path, plain: dict[str, Got], options: dict[str, Any]
) -> None:
    core = drafted(checkpoint, smaller, **options)
    proposer = proposer_of(core)
    seen = watch(proposer)
    assert run(core, make_requests(60, 1)) == plain
    assert proposer_of(core).kv.is_unused
    assert len(proposer.batch._free) == core.max_seqs
    assert_greedy(smaller, seen)
    if "draft_options" in options:
        assert max(len(tokens) + len(guess) for tokens, guess in seen if guess) <= 40
        assert any(len(tokens) >= 40 for tokens, _ in seen)


def test_a_model_that_drafts_for_itself_is_always_right(checkpoint: Path) -> None:
    params = SamplingParams(temperature=0, max_tokens=65, ignore_eos=True)
    core = drafted(checkpoint, checkpoint)
    assert count_steps(core, [NewRequest(str(i), [i, 2 * i, 3 * i], params) for i in range(4)]) == 1 + 64 // 4
    assert core.stats.num_draft_tokens == core.stats.num_accepted_tokens > 0


def test_a_draft_with_a_window(checkpoint: Path, windowed: Path, plain: dict[str, Got]) -> None:
    core = drafted(checkpoint, windowed, tokens=5)
    seen = watch(proposer_of(core))
    assert run(core, make_requests(60, 1)) == plain
    assert proposer_of(core).kv.is_unused
    assert_greedy(windowed, seen)


def test_a_draft_that_lacks_blocks_guesses_for_fewer(checkpoint: Path, smaller: Path, plain: dict[str, Got]) -> None:
    core = drafted(checkpoint, smaller)
    (pool,) = proposer_of(core).kv.pools
    assert pool.allocate(pool.num_free - 30) is not None
    seen = watch(proposer_of(core))
    assert run(core, make_requests(60, 1)) == plain
    assert any(not guess for _, guess in seen)
    assert_greedy(smaller, seen)
    assert pool.num_free == 30


def test_both_caches_hold_as_many_tokens(checkpoint: Path, smaller: Path) -> None:
    alone, core = make_core(checkpoint), drafted(checkpoint, smaller)
    (main,), (draft,) = core.kv.pools, proposer_of(core).kv.pools
    assert main.num_blocks == draft.num_blocks
    assert core.memory_budget.weights > alone.memory_budget.weights
    assert core.memory_budget.activations > alone.memory_budget.activations
    blocks = main.num_blocks + 1
    assert core.memory_budget.cache == blocks * sum(
        g.block_bytes for g in (*core.runner.groups, *proposer_of(core).groups)
    )


def test_a_draft_sleeps_beside_its_model(checkpoint: Path, smaller: Path, plain: dict[str, Got]) -> None:
    requests = make_requests(60, 1)
    core = drafted(checkpoint, smaller)
    for request in requests[:8]:
        core.add(request)
    found = {r.id: Got() for r in requests[:8]}

    def step() -> None:
        for output in core.step():
            found[output.id].tokens += output.token_ids

    for level in (1, 2):
        for _ in range(3):
            step()
        core.sleep(level)
        assert proposer_of(core).sleeper.asleep == {"weights", "kv_cache"}
        assert proposer_of(core).kv.is_unused
        step()
        core.wake_up()
    seen = watch(proposer_of(core))
    while not core.idle:
        step()
    assert {id: got.tokens for id, got in found.items()} == {r.id: plain[r.id].tokens for r in requests[:8]}
    assert_greedy(smaller, seen)


def test_a_draft_model_passes_the_kit(checkpoint: Path, smaller: Path) -> None:
    (card,) = dovetail_register_proposers()
    core = drafted(checkpoint, smaller, max_num_seqs=8)
    # Its sequences go on as nobody guessed, pause, and come back under names that were used before.
    seen = watch(proposer_of(core))
    check_proposer(card, proposer_of(core), vocab_size=256, model=str(smaller))
    assert_greedy(smaller, seen)

"""The offline API over an engine of a few lines."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch

from dovetail import LLM, BeamSearchParams, EngineArgs, SamplingParams
from dovetail.api import DovetailError, RequestError, UsageError
from dovetail.engine.offline import llm_engine as module
from dovetail.engine.output.beam_search import BeamSearch
from dovetail.engine.request.outputs import Logprob

from ..offline_fakes import CONTEXT, EOS, FakeCore, distribution, fake_plan, fake_tokenizer, ranking

GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = fake_plan()
    monkeypatch.setattr(module, "make_plan", lambda args: found)
    monkeypatch.setattr(module, "load_tokenizer", lambda *_: fake_tokenizer())
    monkeypatch.setattr(module, "EngineCore", FakeCore)
    return found


@pytest.fixture
def llm(plan: Any) -> LLM:
    return LLM(use_tqdm=False)


def core(llm: LLM) -> Any:
    return llm._core


def greedy(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(ranking(distribution(tokens))[0])
    return tokens[len(prompt) :]


def ids(llm: LLM, prompts: Any, params: Any = GREEDY, **options: Any) -> list[list[int]]:
    return [o.prompt_token_ids for o in llm.generate(prompts, params, use_tqdm=False, **options)]


# Prompts.


@pytest.mark.parametrize(
    ("prompts", "read"),
    [
        ("abc", [[0, 1, 2]]),
        (["abc", "b"], [[0, 1, 2], [1]]),
        ({"prompt": "abc"}, [[0, 1, 2]]),
        ({"prompt_token_ids": [4, 5]}, [[4, 5]]),
        ({"prompt": "as you like", "prompt_token_ids": (4, 5)}, [[4, 5]]),
        ([7, 8], [[7, 8]]),
        ([[7, 8], [9]], [[7, 8], [9]]),
        (["a", {"prompt": "b"}, {"prompt_token_ids": [4]}, [5]], [[0], [1], [4], [5]]),
        ([], []),
    ],
)
def test_every_shape_of_prompt(llm: LLM, prompts: Any, read: list[list[int]]) -> None:
    assert ids(llm, prompts) == read


class Series:
    """As pandas has them: no Sequence, but with an order."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def tolist(self) -> list[Any]:
        return self.values


SEQUENCES: dict[str, Any] = {
    "tuple": tuple,
    "generator": lambda values: (value for value in values),
    "iterator": iter,
    "keys": lambda values: dict.fromkeys(values).keys(),
    "values": lambda values: dict(enumerate(values)).values(),
    "deque": deque,
    "array": np.array,
    "array of objects": lambda values: np.array(values, dtype=object),
    "series": Series,
}


@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequences_of_every_type(llm: LLM, kind: str) -> None:
    make = SEQUENCES[kind]
    assert ids(llm, make(["ab", "c"])) == [[0, 1], [2]]
    assert ids(llm, make([7, 8])) == [[7, 8]]
    assert ids(llm, {"prompt_token_ids": make([7, 8])}) == [[7, 8]]
    assert ids(llm, [make([7, 8]), "a"]) == [[7, 8], [0]]
    assert ids(llm, ["a", "b"], make([GREEDY, SamplingParams(max_tokens=1)]) if kind != "keys" else GREEDY) == [
        [0],
        [1],
    ]


@pytest.mark.parametrize(
    "prompts",
    [
        torch.tensor([[7, 8], [9, 10]]),
        torch.tensor([[7, 8], [9, 10]], dtype=torch.uint8),
        [torch.tensor([7, 8]), torch.tensor([9, 10])],
        np.array([[7, 8], [9, 10]], dtype=np.int32),
        [[np.int64(7), np.int64(8)], [torch.tensor(9), torch.tensor(10)]],
        [range(7, 9), range(9, 11)],
    ],
)
def test_token_ids_of_every_type(llm: LLM, prompts: Any) -> None:
    read = ids(llm, prompts)
    assert read == [[7, 8], [9, 10]]
    assert {type(token) for prompt in read for token in prompt} == {int}


@pytest.mark.parametrize(
    "prompts",
    [
        7,
        b"abc",
        [b"abc"],
        [None],
        [[]],
        [[1, "a"]],
        [[True]],
        {"a"},
        [{1, 2}],
        bytearray(b"abc"),
        {"prompt_token_ids": {1, 2}},
        {"prompt_token_ids": b"ab"},
        np.array([1.0, 2.0]),
        np.array([True]),
        np.zeros((1, 1, 1), int),
        torch.tensor([0.5]),
        torch.tensor(7),
        {"text": "a"},
        {"prompt": None},
        {"prompt_token_ids": "abc"},
        {"prompt_token_ids": []},
        {"prompt": "a", "multi_modal_data": {}},
        {"prompt": "a", "cache_salt": 5},
        [["a", "b"]],
        {"prompt_token_ids": [1] * CONTEXT},
        {"prompt_token_ids": [999]},
    ],
    ids=repr,
)
def test_a_bad_prompt_is_refused_and_nothing_computed(llm: LLM, prompts: Any) -> None:
    with pytest.raises(RequestError):
        llm.generate(prompts, GREEDY, use_tqdm=False)
    assert core(llm).seen == []
    assert ids(llm, "a") == [[0]]


@pytest.mark.parametrize(("prompts", "hint"), [({"a"}, "sorted"), (b"a", "decode"), (7, "give a text")])
def test_what_is_no_prompt_says_what_to_do(llm: LLM, prompts: Any, hint: str) -> None:
    with pytest.raises(RequestError, match=hint):
        llm.generate(prompts, use_tqdm=False)


def test_fields_of_none_ask_for_nothing(llm: LLM) -> None:
    assert ids(llm, {"prompt": "a", "prompt_token_ids": None, "multi_modal_data": None}) == [[0]]


def test_prompts_are_truncated(llm: LLM) -> None:
    long = [1, 2] * CONTEXT
    assert ids(llm, [long], SamplingParams(truncate_prompt_tokens=3, max_tokens=2)) == [[2, 1, 2]]
    (kept,) = ids(llm, [long], SamplingParams(truncate_prompt_tokens=-1, max_tokens=2))
    assert len(kept) == CONTEXT - 2


# Outputs.


def test_outputs_are_whole(llm: LLM) -> None:
    first, second = llm.generate(["abc", "d"], GREEDY, use_tqdm=False)
    for output, prompt in ((first, [0, 1, 2]), (second, [3])):
        (completion,) = output.outputs
        assert completion.token_ids == greedy(prompt, 4)
        assert completion.text == fake_tokenizer().decode(completion.token_ids)
        assert (completion.finish_reason, completion.logprobs, completion.cumulative_logprob) == ("length", None, None)
        assert output.finished
        assert output.num_cached_tokens == 3
        assert output.metrics
        assert (
            output.metrics.arrival_time <= (output.metrics.first_token_time or 0) <= (output.metrics.finished_time or 0)
        )
    assert (first.prompt, first.prompt_token_ids) == ("abc", [0, 1, 2])
    assert first.request_id != second.request_id


def test_logprobs_and_their_sum(llm: LLM) -> None:
    (output,) = llm.generate("abc", SamplingParams(max_tokens=3, logprobs=2, ignore_eos=True), use_tqdm=False)
    (completion,) = output.outputs
    assert completion.logprobs is not None
    chosen = [entry[token] for token, entry in zip(completion.token_ids, completion.logprobs, strict=True)]
    assert completion.cumulative_logprob == pytest.approx(sum(c.logprob for c in chosen))
    tokens = [0, 1, 2, *completion.token_ids[:2]]
    expected = distribution(tokens)
    assert [*completion.logprobs[2]] == ranking(expected)[:2]
    assert chosen[2].decoded_token == fake_tokenizer().decode(completion.token_ids[2])


def test_the_likeliest_of_several(llm: LLM) -> None:
    """The engine's fake gives the likeliest tokens to the first completion, so that the order is known."""
    params = SamplingParams(n=2, best_of=4, max_tokens=1, ignore_eos=True)
    (output,) = llm.generate("abc", params, use_tqdm=False)
    likeliest = ranking(distribution([0, 1, 2]))
    assert [c.token_ids for c in output.outputs] == [[likeliest[0]], [likeliest[1]]]
    assert [c.index for c in output.outputs] == [0, 1]
    assert [c.logprobs for c in output.outputs] == [None, None]
    assert len(core(llm).seen) == 4


def test_parameters_are_one_for_all_or_one_each(llm: LLM) -> None:
    outputs = llm.generate(["a", "b"], [GREEDY, None], use_tqdm=False)  # type: ignore[list-item]
    assert [s.params.max_tokens for s in core(llm).seen] == [4, 16]
    assert len(outputs) == 2
    with pytest.raises(RequestError, match="3 sampling parameters were given for 2 prompts"):
        llm.generate(["a", "b"], [GREEDY] * 3, use_tqdm=False)


def test_a_form_without_a_grammar_backend_is_refused_before_anything_runs(llm: LLM) -> None:
    with pytest.raises(RequestError, match="no grammar backend") as caught:
        llm.generate(["a", "b"], [GREEDY, SamplingParams(structured_outputs={"regex": "a"})], use_tqdm=False)  # type: ignore[arg-type]
    assert caught.value.param == "structured_outputs"
    assert core(llm).seen == []


class Answer:
    """A message as clients have it, of an earlier answer."""

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return {"role": "assistant", "content": "b"}


@pytest.mark.parametrize("kind", sorted(set(SEQUENCES) - {"keys", "array"}))
def test_conversations_in_every_sequence(llm: LLM, kind: str) -> None:
    make = SEQUENCES[kind]
    ask = [{"role": "user", "content": "a"}]
    (wanted,) = llm.chat(ask, GREEDY, use_tqdm=False)
    (one,) = llm.chat(make(ask), GREEDY, use_tqdm=False)
    assert one.prompt_token_ids == wanted.prompt_token_ids
    assert len(llm.chat([make(ask), ask], GREEDY, use_tqdm=False)) == 2


def test_answers_of_clients_are_messages(llm: LLM) -> None:
    ask, then = {"role": "user", "content": "a"}, {"role": "user", "content": "c"}
    both = [[ask, {"role": "assistant", "content": "b"}, then], [ask, Answer(), then]]
    first, second = llm.chat(both, GREEDY, use_tqdm=False)  # type: ignore[list-item]
    assert first.prompt_token_ids == second.prompt_token_ids


def test_a_conversation(llm: LLM) -> None:
    ask = [{"role": "user", "content": "abc"}]
    (one,) = llm.chat(ask, GREEDY, use_tqdm=False)
    assert (one.prompt, one.prompt_token_ids) == ("abc", [0, 1, 2])
    assert len(llm.chat([ask, ask], GREEDY, use_tqdm=False)) == 2
    with pytest.raises(RequestError, match="a conversation is"):
        llm.chat("abc", GREEDY, use_tqdm=False)  # type: ignore[arg-type]


def test_salt_and_priority_reach_the_engine(plan: Any) -> None:
    llm = LLM(use_tqdm=False, scheduling_policy="priority")
    llm.generate([{"prompt": "a", "cache_salt": "s"}, "b"], GREEDY, use_tqdm=False, priority=[5, -1])
    assert [(s.cache_salt, s.priority) for s in core(llm).seen] == [("s", 5), (None, -1)]
    with pytest.raises(RequestError, match="1 priorities were given for 2 prompts"):
        llm.generate(["a", "b"], GREEDY, use_tqdm=False, priority=[5])


def test_priority_without_the_policy_is_refused(llm: LLM) -> None:
    with pytest.raises(RequestError, match='scheduling_policy="priority"'):
        llm.generate("a", GREEDY, use_tqdm=False, priority=[5])


def test_an_interrupted_call_leaves_nothing_behind(llm: LLM) -> None:
    core(llm).fail_at = 3
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["a", "b"], GREEDY, use_tqdm=False)
    assert core(llm).requests == {}
    assert ids(llm, "a") == [[0]]


def test_a_progress_bar_of_one_s_own(llm: LLM) -> None:
    made: list[Any] = []

    class ProgressBar:
        def __init__(self, **options: Any) -> None:
            self.total, self.done = options["total"], 0
            made.append(self)

        def __enter__(self) -> ProgressBar:
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self, more: int = 1) -> None:
            self.done += more

    llm.generate(["a", "b"], GREEDY, use_tqdm=ProgressBar)
    assert [(bar.total, bar.done) for bar in made] == [(2, 2)]


# Beam search.


def test_beam_search_runs_all_beams_of_all_prompts_together(llm: LLM) -> None:
    params = BeamSearchParams(beam_width=3, max_tokens=5, length_penalty=0.8)
    outputs = llm.beam_search(["abc", [4]], params)
    for prompt, output in (([0, 1, 2], outputs[0]), ([4], outputs[1])):
        alone = BeamSearch(prompt, params, (EOS,), CONTEXT)
        while alone.beams:
            found = []
            for beam in alone.beams:
                logprobs = distribution(beam.tokens)
                found.append({i: Logprob(logprobs[i]) for i in ranking(logprobs)[:6]})
            alone.extend(found)
        assert [s.tokens for s in output.sequences] == [b.tokens for b in alone.best()]
        assert [s.text for s in output.sequences] == [fake_tokenizer().decode(s.tokens) for s in output.sequences]
    assert core(llm).steps <= 2 * 5  # with a lag of one, two for each token
    assert {s.params.logprobs for s in core(llm).seen} == {6}


def test_a_search_wider_than_the_logprobs_allow_is_refused(plan: Any) -> None:
    with pytest.raises(RequestError, match=r"beam_width is 3.*set max_logprobs=6") as caught:
        LLM(use_tqdm=False, max_logprobs=5).beam_search("a", BeamSearchParams(3, 2))
    assert caught.value.param == "beam_width"
    assert LLM(use_tqdm=False, max_logprobs=-1).beam_search("a", BeamSearchParams(12, 2))


def test_a_search_refuses_bad_prompts(llm: LLM) -> None:
    with pytest.raises(RequestError, match="context"):
        llm.beam_search([[1] * CONTEXT], BeamSearchParams(2, 2))


# Without a tokenizer.


def test_without_a_tokenizer_token_ids_work_and_texts_are_refused(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def untouched(*_: Any) -> None:
        raise AssertionError("the tokenizer was read")

    monkeypatch.setattr(module, "load_tokenizer", untouched)
    llm = LLM(use_tqdm=False, skip_tokenizer_init=True)
    (output,) = llm.generate([[1, 2]], use_tqdm=False)
    assert (output.outputs[0].text, output.prompt) == ("", None)
    assert output.outputs[0].token_ids
    (output,) = llm.generate([[1, 2]], GREEDY, use_tqdm=False)  # parameters that say nothing of texts
    assert (output.outputs[0].text, len(output.outputs[0].token_ids)) == ("", 4)
    assert llm.beam_search([[1, 2]], BeamSearchParams(2, 2))[0].sequences[0].text is None
    for call in (
        lambda: llm.generate("abc", use_tqdm=False),
        lambda: llm.chat([{"role": "user", "content": "a"}], use_tqdm=False),
        lambda: llm.generate([[1]], SamplingParams(stop=["x"]), use_tqdm=False),
        lambda: llm.generate([[1]], SamplingParams(bad_words=["x"]), use_tqdm=False),
        llm.get_tokenizer,
    ):
        with pytest.raises(RequestError, match="skip_tokenizer_init"):
            call()


# The engine.


def test_options(plan: Any) -> None:
    assert LLM(use_tqdm=False).args.max_decode_slowdown == 0
    assert LLM(use_tqdm=False, max_decode_slowdown=3).args.max_decode_slowdown == 3
    made = LLM.from_engine_args(EngineArgs(max_num_seqs=3), use_tqdm=False)
    assert (made.args.max_num_seqs, made.args.max_decode_slowdown) == (3, 0)
    with pytest.raises(UsageError, match="max_num_seqs"):
        LLM(max_num_seqs=0)
    with pytest.raises(UsageError, match="max_seqs"):
        LLM(max_seqs=3)


def test_defaults_come_from_the_model(plan: Any) -> None:
    plan.checkpoint.generation_config = {"temperature": 0.25, "max_new_tokens": 5}
    llm = LLM(use_tqdm=False)
    assert llm.get_default_sampling_params() == SamplingParams(temperature=0.25, max_tokens=5)
    assert llm.get_tokenizer().encode("b") == [1]


def test_sleeping(llm: LLM) -> None:
    llm.sleep()
    assert llm.is_sleeping
    for call in (lambda: llm.generate("a", use_tqdm=False), lambda: llm.beam_search("a", BeamSearchParams(2, 2))):
        with pytest.raises(RequestError, match="sleeps"):
            call()
    llm.wake_up(["weights"])
    llm.sleep(level=2)
    llm.wake_up()
    assert core(llm).calls == [("sleep", 1), ("wake_up", ["weights"]), ("sleep", 2), ("wake_up", None)]
    assert ids(llm, "a") == [[0]]
    assert llm.reset_prefix_cache() is True
    for call in (
        lambda: llm.sleep(3),
        lambda: llm.sleep(True),
        lambda: llm.wake_up(["all"]),
        lambda: llm.wake_up("weights"),
    ):
        with pytest.raises(UsageError):
            call()


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ("embed", (["a"],), "wanted embed, and fake does generate .*--convert embed"),
        ("encode", (["a"],), "wanted embed, and fake does generate"),
        ("classify", (["a"],), "wanted classify, and fake does generate .*trained to classify"),
        ("score", ("a", "b"), "wanted score or embed, and fake does generate"),
    ],
)
def test_what_the_model_does_not_offer(llm: LLM, method: str, arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        getattr(llm, method)(*arguments)


def test_options_that_ask_for_nothing_are_left_out_and_the_others_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="tensor_parallel_size=2: a model is not split"):
        LLM("nowhere", tensor_parallel_size=2, trust_remote_code=False)
    with pytest.raises(DovetailError, match="nowhere"):
        LLM("nowhere", tensor_parallel_size=1, trust_remote_code=True, task="generate", tokenizer=None)


def test_control_tokens_in_messages_are_plain_text(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*given: Any) -> Any:
        tokenizer = fake_tokenizer()
        tokenizer.backend.add_special_tokens(["o"])
        tokenizer.chat_template = "{% for m in messages %}o{{ m.content }}{% endfor %}"
        tokenizer.allow_special_tokens_in_content = given[3]
        return tokenizer

    monkeypatch.setattr(module, "load_tokenizer", load)
    messages, mark = [{"role": "user", "content": "bo"}], 14
    (output,) = LLM(use_tqdm=False).chat(messages, GREEDY, use_tqdm=False)
    assert output.prompt == "obo"
    assert output.prompt_token_ids == [mark, 1]  # this vocabulary has nothing else to write it with
    (output,) = LLM(use_tqdm=False, allow_special_tokens_in_content=True).chat(messages, GREEDY, use_tqdm=False)
    assert output.prompt_token_ids == [mark, 1, mark]
    (output,) = LLM(use_tqdm=False).generate("bo", GREEDY, use_tqdm=False)
    assert output.prompt_token_ids == [1, mark]

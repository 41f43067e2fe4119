"""From requests to sequences, and from tokens to deltas: text, logprobs, ends, and the bookkeeping of several completions."""

from __future__ import annotations

from typing import Any

import pytest
import tokenizers

from dovetail.api import RequestError
from dovetail.engine.messages import NewRequest, TokenLogprobs, TokenOutput
from dovetail.engine.output.processor import OutputProcessor
from dovetail.engine.request.outputs import Delta, Logprob
from dovetail.engine.request.parameter_rules import MAX_SEED
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One token a byte."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return Tokenizer(backend)


def outputs(tokenizer: Tokenizer, text: str) -> list[TokenOutput]:
    ids = tokenizer.encode(text)
    return [TokenOutput("r#0", [i], "length" if n == len(ids) - 1 else None) for n, i in enumerate(ids)]


def collect(processor: OutputProcessor, tokens: list[TokenOutput]) -> tuple[list[Delta], list[str]]:
    deltas: list[Delta] = []
    aborts: list[str] = []
    for token in tokens:
        new, ended = processor.process([token])
        deltas += [d for group in new.values() for d in group]
        aborts += ended
    return deltas, aborts


def test_characters_are_never_split(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    processor.add("r", [0], SamplingParams())
    deltas, _ = collect(processor, outputs(tokenizer, "naïve 👩‍🚀 東京"))
    assert "".join(d.text for d in deltas) == "naïve 👩‍🚀 東京"
    assert "\ufffd" not in "".join(d.text for d in deltas)
    assert deltas[-1].finish_reason == "length"


def test_a_stop_string_ends_the_completion_and_the_engine_is_told(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    processor.add("r", [0], SamplingParams(stop=["END"]))
    deltas, aborts = collect(processor, outputs(tokenizer, "one ENough END two"))
    assert "".join(d.text for d in deltas) == "one ENough "
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", "END")
    assert aborts == ["r#0"]
    assert not processor.is_unfinished("r")


def test_a_stop_string_may_be_kept(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    processor.add("r", [0], SamplingParams(stop=["END"], include_stop_str_in_output=True))
    deltas, _ = collect(processor, outputs(tokenizer, "one END two"))
    assert "".join(d.text for d in deltas) == "one END"


def test_stop_strings_wait_for_min_tokens(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    processor.add("r", [0], SamplingParams(stop=["."], min_tokens=4, max_tokens=100))
    deltas, _ = collect(processor, outputs(tokenizer, "a.b.c.d"))
    assert "".join(d.text for d in deltas) == "a.b.c"


def test_the_token_that_ended_the_output_is_not_in_the_text(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    processor.add("r", [0], SamplingParams())
    a, b = tokenizer.encode("a!")
    deltas, aborts = collect(processor, [TokenOutput("r#0", [a]), TokenOutput("r#0", [b], "stop", b)])
    assert "".join(d.text for d in deltas) == "a"
    assert [t for d in deltas for t in d.token_ids] == [a, b]
    assert deltas[-1].stop_reason == b
    assert aborts == []


def test_completions_of_a_seeded_request_have_seeds_of_their_own(tokenizer: Tokenizer) -> None:
    sequences = OutputProcessor(tokenizer).add("r", [0], SamplingParams(n=3, seed=5)).split()
    assert [s.id for s in sequences] == ["r#0", "r#1", "r#2"]
    assert sequences[0].params.seed == 5, "the first has the request's own"
    again = OutputProcessor(tokenizer).add("again", [0], SamplingParams(n=3, seed=5)).split()
    assert [s.params.seed for s in again] == [s.params.seed for s in sequences]


def test_seeds_of_completions_are_no_other_request_s(tokenizer: Tokenizer) -> None:
    seeds = [
        sequence.params.seed
        for seed in range(-50, 50)
        if seed != -1  # any seed
        for sequence in OutputProcessor(tokenizer).add("r", [0], SamplingParams(n=8, seed=seed)).split()
    ]
    assert len(set(seeds)) == len(seeds) == 99 * 8


def test_an_aborted_request_is_forgotten(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    processor.add("r", [0], SamplingParams(n=2))
    assert processor.abort("r") == ["r#0", "r#1"]
    assert processor.process([TokenOutput("r#0", [1])]) == ({}, [])
    assert processor.abort("r") == []


def test_an_id_in_use_is_refused_and_its_owner_undisturbed(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    processor.add("r", [0], SamplingParams())
    with pytest.raises(RequestError, match="'r' is running"):
        processor.add("r", [0], SamplingParams())
    assert processor.is_unfinished("r")


def test_parameters_changed_for_the_worse_are_refused_and_leave_nothing(tokenizer: Tokenizer) -> None:
    processor, params = OutputProcessor(tokenizer), SamplingParams(n=2)
    params.temperature = -1
    with pytest.raises(RequestError, match="temperature"):
        processor.add("r", [0], params)
    assert processor._completions == {}
    assert not processor.is_unfinished("r")


def test_seeds_of_completions_wrap_around(tokenizer: Tokenizer) -> None:
    sequences = OutputProcessor(tokenizer).add("r", [0], SamplingParams(n=2, seed=MAX_SEED)).split()
    assert all(s.params.seed is not None and s.params.seed <= MAX_SEED for s in sequences)


# Stop strings.


def test_a_stop_string_that_completes_within_several_tokens_drops_those_behind_it(tokenizer: Tokenizer) -> None:
    """Speculation gives several tokens in a step; the output is that of one token at a time."""
    processor, ids = OutputProcessor(tokenizer), tokenizer.encode("a.bcd")
    processor.add("r", [0], SamplingParams(stop=["b"], logprobs=0))
    logprobs = [TokenLogprobs([i], [-1.0], 1) for i in ids]
    deltas, aborts = collect(processor, [TokenOutput("r#0", ids, "length", logprobs=logprobs)])
    (delta,) = deltas
    assert (delta.text, delta.token_ids) == ("a.", ids[:3])
    assert len(delta.logprobs or []) == 3
    assert (delta.finish_reason, delta.stop_reason) == ("stop", "b")
    assert aborts == []  # the engine has finished it already


def test_a_stop_string_that_begins_before_min_tokens_and_completes_after_ends_the_output(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    processor.add("r", [0], SamplingParams(stop=["bc"], min_tokens=2, max_tokens=100))
    deltas, _ = collect(processor, outputs(tokenizer, "abcd"))
    assert "".join(d.text for d in deltas) == "a"
    assert deltas[-1].stop_reason == "bc"


def test_held_text_comes_out_at_the_end_though_min_tokens_were_not_reached(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    processor.add("r", [0], SamplingParams(stop=["cd"], min_tokens=50, max_tokens=100))
    deltas, _ = collect(processor, outputs(tokenizer, "abc"))
    assert "".join(d.text for d in deltas) == "abc"


def test_held_text_comes_out_when_a_token_ends_the_output(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    processor.add("r", [0], SamplingParams(stop=["bx"]))
    a, b, c = tokenizer.encode("abc")
    deltas, _ = collect(processor, [TokenOutput("r#0", [a, b]), TokenOutput("r#0", [c], "stop")])
    assert [d.text for d in deltas] == ["a", "b"]


# Logprobs.


def test_logprobs_get_the_texts_of_their_tokens(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    a, b, c = tokenizer.encode("abc")
    processor.add("r", [a, b], SamplingParams(logprobs=2, prompt_logprobs=1))
    output = TokenOutput(
        "r#0",
        [c],
        logprobs=[TokenLogprobs([c, a, b], [-3.0, -0.5, -1.0], 7)],
        prompt_logprobs=[TokenLogprobs([b, b], [-0.1, -0.1], 1)],
        cached_tokens=1,
    )
    (delta,), _ = collect(processor, [output])
    assert delta.logprobs == [{c: Logprob(-3.0, 7, "c"), a: Logprob(-0.5, 1, "a"), b: Logprob(-1.0, 2, "b")}]
    assert [*delta.logprobs[0]] == [c, a, b]
    assert delta.prompt_logprobs == [None, {b: Logprob(-0.1, 1, "b")}]
    assert delta.cached_tokens == 1


def test_a_token_that_is_part_of_a_character_is_a_replacement_character(tokenizer: Tokenizer) -> None:
    processor, ids = OutputProcessor(tokenizer), tokenizer.encode("é")
    processor.add("r", [0], SamplingParams(logprobs=0))
    tokens = [TokenOutput("r#0", [i], logprobs=[TokenLogprobs([i], [-1.0], 1)]) for i in ids]
    deltas, _ = collect(processor, tokens)
    assert len(ids) == 2
    assert [d.logprobs[0][i].decoded_token for d, i in zip(deltas, ids, strict=True) if d.logprobs] == ["\ufffd"] * 2
    assert "".join(d.text for d in deltas) == "é"


def test_without_detokenization_there_are_ids_and_logprobs_alone(tokenizer: Tokenizer) -> None:
    for processor in (OutputProcessor(tokenizer), OutputProcessor(None)):
        processor.add("r", [0], SamplingParams(detokenize=False, logprobs=0))
        (delta,), _ = collect(
            processor, [TokenOutput("r#0", [65], "length", logprobs=[TokenLogprobs([65], [-1.0], 2)])]
        )
        assert (delta.text, delta.token_ids, delta.logprobs) == ("", [65], [{65: Logprob(-1.0, 2, None)}])


@pytest.mark.parametrize("asked", [{"stop": ["x"]}, {"detokenize": False, "bad_words": ["x"]}])
def test_without_a_tokenizer_what_needs_one_is_refused(asked: dict[str, Any]) -> None:
    processor = OutputProcessor(None)
    with pytest.raises(RequestError, match="skip_tokenizer_init"):
        processor.add("r", [0], SamplingParams(**asked))
    assert not processor.is_unfinished("r")


def test_without_a_tokenizer_outputs_have_no_text() -> None:
    processor = OutputProcessor(None)
    processor.add("r", [0], SamplingParams())
    (delta,), _ = collect(processor, [TokenOutput("r#0", [65], "length")])
    assert (delta.text, delta.token_ids) == ("", [65])


# Sequences.


def test_sequences_carry_what_the_engine_needs(tokenizer: Tokenizer) -> None:
    params = SamplingParams(n=2, prompt_logprobs=3)
    sequences = OutputProcessor(tokenizer).add("r", [1, 2], params, priority=4, cache_salt="s", adapter="a").split()
    assert [(s.priority, s.cache_salt, s.adapter, s.params.n) for s in sequences] == [(4, "s", "a", 1)] * 2
    # The prompt is the same for all, so its logprobs are computed once.
    assert [s.params.prompt_logprobs for s in sequences] == [3, None]
    assert params == SamplingParams(n=2, prompt_logprobs=3)


def words(tokenizer: Tokenizer, *texts: str) -> list[list[int]]:
    return OutputProcessor(tokenizer).add("r", [0], SamplingParams(bad_words=list(texts))).bad_words


def word_tokenizer() -> Tokenizer:
    """Has a token for a word with a space before it, and one for the word alone, as most vocabularies do."""
    vocabulary = {c: i for i, c in enumerate(["b", "a", "d", "Ġ", "ba", "bad", "Ġbad", "x"])}
    merges = [("b", "a"), ("ba", "d"), ("Ġ", "bad")]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return Tokenizer(backend)


def test_bad_words_are_written_with_and_without_a_space() -> None:
    tokenizer = word_tokenizer()
    bare, spaced = tokenizer.encode("bad"), tokenizer.encode(" bad")
    assert len(bare) == len(spaced) == 1
    assert bare != spaced
    assert words(tokenizer, "bad") == words(tokenizer, " bad") == [bare, spaced]


def test_bad_words_that_another_keeps_out_already_are_left_out(tokenizer: Tokenizer) -> None:
    # One token a byte: what ends in the bare word is kept out with it.
    assert words(tokenizer, "bad") == [tokenizer.encode("bad")]
    assert words(tokenizer, "d", "bad") == [tokenizer.encode("d")]


def test_a_bad_word_without_tokens_is_refused() -> None:
    with pytest.raises(RequestError, match="no tokens") as caught:
        words(word_tokenizer(), "Ω")
    assert caught.value.param == "bad_words"


# best_of.


def token(sequence: NewRequest, id: int, logprob: float, reason: Any = None, **more: Any) -> TokenOutput:
    return TokenOutput(sequence.id, [id], reason, logprobs=[TokenLogprobs([id], [logprob], 1)], **more)


def test_the_likeliest_completions_are_given_out_once_all_are_finished(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    a, b, c = tokenizer.encode("abc")
    sequences = processor.add("r", [0], SamplingParams(n=2, best_of=3)).split()
    assert [s.params.logprobs for s in sequences] == [0, 0, 0]
    first = [token(sequences[0], a, -5.0, cached_tokens=4), token(sequences[1], b, -2.0), token(sequences[2], c, -1.0)]
    assert collect(processor, first) == ([], [])
    assert collect(processor, [token(sequences[1], b, -0.5, "length"), token(sequences[0], a, -0.1, "length")])[0] == []
    assert processor.is_unfinished("r")
    deltas, _ = collect(processor, [token(sequences[2], c, -1.0, "length")])
    assert [(d.index, d.text, d.token_ids, d.finish_reason) for d in deltas] == [
        (0, "cc", [c, c], "length"),
        (1, "bb", [b, b], "length"),
    ]
    # They were needed to choose, and not asked for. What was cached is known of the request, whichever completion won.
    assert [d.logprobs for d in deltas] == [None, None]
    assert [d.cached_tokens for d in deltas] == [4, 0]
    assert not processor.is_unfinished("r")


def test_logprobs_that_were_asked_for_stay(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    a, b = tokenizer.encode("ab")
    sequences = processor.add("r", [0], SamplingParams(best_of=2, logprobs=1)).split()
    assert [s.params.logprobs for s in sequences] == [1, 1]
    deltas, _ = collect(processor, [token(sequences[0], a, -5.0, "length"), token(sequences[1], b, -2.0, "length")])
    assert [d.logprobs for d in deltas] == [[{b: Logprob(-2.0, 1, "b")}]]


def test_a_completion_that_failed_is_the_last_choice(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    (a,) = tokenizer.encode("a")
    sequences = processor.add("r", [0], SamplingParams(best_of=2)).split()
    deltas, _ = collect(
        processor, [TokenOutput(sequences[0].id, [], "error", error="why"), token(sequences[1], a, -9.0, "length")]
    )
    assert [(d.text, d.finish_reason) for d in deltas] == [("a", "length")]


def test_a_stop_string_ends_one_of_the_choices(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    a, b = tokenizer.encode("ab")
    sequences = processor.add("r", [0], SamplingParams(best_of=2, stop=["a"])).split()
    deltas, aborts = collect(processor, [token(sequences[0], a, -1.0), token(sequences[1], b, -2.0, "length")])
    assert aborts == [sequences[0].id]
    assert [(d.text, d.stop_reason) for d in deltas] == [("", "a")]


def test_an_aborted_choice_leaves_nothing(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    (a,) = tokenizer.encode("a")
    sequences = processor.add("r", [0], SamplingParams(best_of=2)).split()
    collect(processor, [token(sequences[0], a, -1.0, "length")])
    assert processor.abort("r") == [sequences[1].id]
    assert not processor.is_unfinished("r")
    assert processor._completions == {}


def test_what_is_told_of_the_prompt_comes_with_the_first_of_the_best(tokenizer: Tokenizer) -> None:
    processor = OutputProcessor(tokenizer)
    a, b = tokenizer.encode("ab")
    sequences = processor.add("r", [a, b], SamplingParams(n=2, best_of=3, prompt_logprobs=0)).split()
    told = [TokenLogprobs([b], [-0.5], 1)]
    deltas, _ = collect(
        processor,
        [
            token(sequences[0], a, -5.0, "length", prompt_logprobs=told),
            token(sequences[1], a, -6.0, "length"),
            token(sequences[2], b, -2.0, "length"),
        ],
    )
    assert [(d.token_ids, d.prompt_logprobs) for d in deltas] == [
        ([b], [None, {b: Logprob(-0.5, 1, "b")}]),
        ([a], None),
    ]

"""Stop strings and completions, cut at every possible place."""

from __future__ import annotations

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from dovetail.api import RequestError
from dovetail.engine.messages import TokenOutput
from dovetail.engine.outputs import Delta
from dovetail.engine.params import MAX_SEED, SamplingParams
from dovetail.engine.processor import OutputProcessor, StopStrings
from dovetail.engine.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One token a byte."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return Tokenizer(backend)


def whole(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """The definition: cut at the stop that begins first, the longest of those that begin together."""
    places = [(at, -len(s), s) for s in stops if (at := text.find(s)) >= 0]
    if not places:
        return text, None
    at, _, stop = min(places)
    return text[: at + (len(stop) if include else 0)], stop


@given(
    text=st.text("ab.", max_size=30),
    stops=st.lists(st.text("ab.", min_size=1, max_size=4), min_size=1, max_size=3),
    cuts=st.lists(st.integers(1, 4), max_size=30),
    include=st.booleans(),
)
def test_text_in_pieces_is_text_cut_at_the_first_stop_that_completes(
    text: str, stops: list[str], cuts: list[int], include: bool
) -> None:
    watcher, shown, position = StopStrings(stops, include), "", 0
    for size in [*cuts, len(text)]:
        piece = text[position : position + size]
        position += size
        new, stop = watcher.add(piece)
        shown += new
        if stop is not None:
            # What has been seen so far decides; more text could not have changed it.
            assert (shown, stop) == whole(text[:position], stops, include)
            return
    shown += watcher.flush()
    assert (shown, None) == whole(text, stops, include)


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
    assert not processor.unfinished("r")


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
    sequences = OutputProcessor(tokenizer).add("r", [0], SamplingParams(n=3, seed=5))
    assert [(s.id, s.params.seed) for s in sequences] == [("r#0", 5), ("r#1", 6), ("r#2", 7)]


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
    assert processor.unfinished("r")


def test_parameters_changed_for_the_worse_are_refused_and_leave_nothing(tokenizer: Tokenizer) -> None:
    processor, params = OutputProcessor(tokenizer), SamplingParams(n=2)
    params.temperature = -1
    with pytest.raises(RequestError, match="temperature"):
        processor.add("r", [0], params)
    assert processor._completions == {}
    assert not processor.unfinished("r")


def test_seeds_of_completions_wrap_around(tokenizer: Tokenizer) -> None:
    sequences = OutputProcessor(tokenizer).add("r", [0], SamplingParams(n=2, seed=MAX_SEED))
    assert all(s.params.seed is not None and s.params.seed <= MAX_SEED for s in sequences)

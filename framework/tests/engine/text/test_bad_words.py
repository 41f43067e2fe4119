"""Bad words, against a search through all of them."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.engine.text.bad_words import BadWords, encode_bad_words
from dovetail.engine.text.tokenizer import Tokenizer

from .tokenizer_folders import byte_level

IDS = st.integers(0, 3)
WORDS = st.lists(st.lists(IDS, min_size=1, max_size=5), max_size=8)


@given(words=WORDS, prompt=st.lists(IDS, max_size=4), output=st.lists(IDS, max_size=8), draft=st.lists(IDS, max_size=3))
def test_what_completes_a_word(words: list[list[int]], prompt: list[int], output: list[int], draft: list[int]) -> None:
    found = BadWords(words)
    so_far = [*output, *draft]
    longer = [word for word in words if len(word) > 1]
    expected = {word[-1] for word in longer if so_far[max(len(so_far) - len(word) + 1, 0) :] == word[:-1]}
    assert set(found.completing([*prompt, *output], len(prompt), draft)) == expected
    assert set(found.single) == {word[0] for word in words if len(word) == 1}
    assert bool(found) == bool(words)
    assert found.looks_back == bool(longer)


@given(words=st.lists(st.text("ab ", min_size=1, max_size=5), max_size=8))
def test_spellings_that_end_in_an_earlier_one_are_left_out(words: list[str]) -> None:
    tokenizer = Tokenizer(byte_level())
    spellings = [text for word in words for text in (word.lstrip(" ") or word, f" {word.lstrip(' ') or word}")]
    encoded = [tokenizer.encode(text, add_special_tokens=False) for text in spellings]
    expected = [
        ids for place, ids in enumerate(encoded) if not any(ids[-len(other) :] == other for other in encoded[:place])
    ]
    assert encode_bad_words(words, tokenizer) == expected


@pytest.mark.alone
def test_time_grows_with_their_length_alone(slowness: Callable[[], float]) -> None:
    words = [f"{'ab' * 30}{i:04}" for i in range(4096)]
    begun = time.monotonic()
    found = BadWords(encode_bad_words(words, Tokenizer(byte_level())))
    for _ in range(1000):
        list(found.completing([1] * 200, 0))
    assert time.monotonic() - begun < 2 * slowness()

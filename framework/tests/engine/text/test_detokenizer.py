"""Text from ids, whole and piece by piece."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.text.detokenizer import ByteDecoder, IncrementalDetokenizer
from dovetail.engine.text.tokenizer import Tokenizer

from .tokenizer_folders import KINDS, TEXTS

TOKENIZERS = {name: Tokenizer(build()) for name, build in KINDS.items()}


def pieces(tokenizer: Tokenizer, ids: list[int], chunk: int = 1, **options: object) -> list[str]:
    incremental = IncrementalDetokenizer(tokenizer, **options)  # type: ignore[arg-type]
    found = [incremental.add(ids[i : i + chunk]) for i in range(0, len(ids), chunk)]
    return [*found, incremental.flush()]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("skip", [True, False])
def test_pieces_make_up_the_text(name: str, text: str, skip: bool) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids, skip)
    assert whole == tokenizer.backend.decode(ids, skip_special_tokens=skip)
    for chunk in (1, 2, 3, 1000):
        assert "".join(pieces(tokenizer, ids, chunk, skip_special_tokens=skip)) == whole


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback_unstripped"])
@pytest.mark.parametrize("text", TEXTS)
def test_no_piece_holds_half_a_character(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    found = "".join(pieces(tokenizer, tokenizer.encode(text, add_special_tokens=False), skip_special_tokens=False))
    assert found.count("\ufffd") == text.count("\ufffd")


@given(ids=st.lists(st.integers(0, 300), max_size=30), chunk=st.integers(1, 4))
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("name", KINDS)
def test_any_ids(name: str, ids: list[int], chunk: int) -> None:
    tokenizer = TOKENIZERS[name]
    whole = tokenizer.decode(ids)
    assert "".join(pieces(tokenizer, ids, chunk)) == whole
    # Where bytes are no UTF-8, the library also gives up the whole characters beside them.
    if "\ufffd" not in whole:
        assert whole == tokenizer.backend.decode(ids)


@pytest.mark.parametrize("name", KINDS)
def test_many_unknown_ids_between_words(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = [3, *[10**6] * 20, 3]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@given(ids=st.lists(st.integers(0, 300), min_size=1, max_size=30), at=st.integers(0, 29))
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("name", ["byte_level", "byte_fallback", "metaspace"])
def test_text_continues_a_prompt(name: str, ids: list[int], at: int) -> None:
    tokenizer = TOKENIZERS[name]
    before = tokenizer.decode(ids[:at])
    if not before.endswith("\ufffd"):
        assert before + "".join(pieces(tokenizer, ids[at:], prompt_ids=ids[:at])) == tokenizer.decode(ids)


def test_space_at_the_start() -> None:
    tokenizer = TOKENIZERS["byte_fallback"]
    space, hello = tokenizer.token_to_id("\u2581a"), tokenizer.token_to_id("He")
    assert space is not None
    assert hello is not None
    assert "".join(pieces(tokenizer, [space])) == "a"
    assert "".join(pieces(tokenizer, [space], prompt_ids=[hello])) == " a"
    assert "".join(pieces(tokenizer, [space], prompt_ids=[1])) == "a"  # after nothing but a skipped token


def test_characters_come_as_soon_as_they_are_whole() -> None:
    tokenizer = TOKENIZERS["byte_fallback"]
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") or 0 for byte in "é🚀".encode() + b"\xff"]
    assert pieces(tokenizer, ids) == ["", "é", "", "", "", "🚀", "\ufffd", ""]
    assert pieces(tokenizer, ids[:4]) == ["", "é", "", "", "\ufffd"]


def test_a_prompt_may_end_within_a_character() -> None:
    tokenizer = TOKENIZERS["byte_fallback"]
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") or 0 for byte in "🚀".encode()]
    assert "".join(pieces(tokenizer, ids[2:], prompt_ids=ids[:2])) == "🚀"


@pytest.mark.parametrize("name", KINDS)
def test_unknown_ids_are_nothing(name: str) -> None:
    assert "".join(pieces(TOKENIZERS[name], [10**6, 10**6 + 1])) == ""


@pytest.mark.parametrize("name", KINDS)
def test_time_does_not_grow_with_the_text(name: str) -> None:
    tokenizer, rng = TOKENIZERS[name], random.Random(0)
    incremental = IncrementalDetokenizer(tokenizer)

    def seconds(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            incremental.add([rng.randrange(tokenizer.vocab_size)])
        return time.perf_counter() - started

    seconds(500)
    early = min(seconds(500) for _ in range(3))
    seconds(10_000)
    assert min(seconds(500) for _ in range(3)) < 8 * early + 0.01


def test_spellings() -> None:
    spelled = {name: ByteDecoder.from_backend(tokenizer.backend) is not None for name, tokenizer in TOKENIZERS.items()}
    assert spelled == {
        "byte_level": True,
        "byte_fallback": True,
        "byte_fallback_unstripped": True,
        "word_piece": False,
        "metaspace": False,
        "suffixed": False,
    }
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode(TEXTS[4], add_special_tokens=False)
    assert b"".join(map(tokenizer.token_bytes, ids)) == TEXTS[4].encode()

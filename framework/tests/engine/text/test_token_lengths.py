"""No text has fewer tokens than its length says, and nothing is said where that cannot be known."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from dovetail.engine.text.token_lengths import MAX_NFC_SHRINK, find_longest_token

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
LETTERS = {"▁": 256, "a": 257, "▁a": 258, "aa": 259}
BYTES = {f"<0x{byte:02X}>": byte for byte in range(256)}


def byte_level(*merges: tuple[str, str]) -> Tokenizer:
    tokens = [*ALPHABET, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def lacking(text: str) -> Tokenizer:
    """Some vocabularies have no token for bytes that they were never trained on."""
    tokens = [token for token in ALPHABET if token not in pre_tokenizers.ByteLevel(False).pre_tokenize_str(text)[0][0]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def with_fallback() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({**BYTES, **LETTERS}, [("▁", "a"), ("a", "a")], byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def changed(tokenizer: Tokenizer, **parts: Any) -> Tokenizer:
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


MERGES = [("a", "a"), ("aa", "aa"), ("Ã", "©")]
KNOWN = {
    "byte level": (byte_level(*MERGES), 4),
    "composed": (changed(byte_level(*MERGES), normalizer=normalizers.NFC()), 4 * MAX_NFC_SHRINK),
    "cut first": (
        changed(
            byte_level(*MERGES),
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex(r"\s+"), "isolated"), pre_tokenizers.ByteLevel(use_regex=False)]
            ),
        ),
        4,
    ),
    "lacking bytes": (lacking("é"), 1),
    "byte fallback": (with_fallback(), len("<0x00>")),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_longest_token_is_known(name: str) -> None:
    tokenizer, length = KNOWN[name]
    dropped = "é".encode() if name == "lacking bytes" else b""
    found = find_longest_token(tokenizer)
    assert found is not None
    assert (found.length, found.in_bytes, sorted(found.dropped)) == (length, name != "byte fallback", sorted(dropped))


@pytest.mark.parametrize("name", KNOWN)
@given(text=st.text(st.sampled_from("a é\u0301\u212a\u1fbe\u0308漢🥖\n"), max_size=40) | st.text(max_size=40))
def test_no_text_has_fewer(name: str, text: str) -> None:
    tokenizer = KNOWN[name][0]
    longest = find_longest_token(tokenizer)
    assert longest is not None
    assert len(tokenizer.encode(text, add_special_tokens=False)) >= longest.min_token_count(text)


def test_added_tokens_count() -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("<|ende der rede|>")])
    assert find_longest_token(tokenizer) == (17, True, b"")
    tokenizer.add_tokens([AddedToken("ü" * 20)])
    assert find_longest_token(tokenizer) == (40, True, b"")


def test_a_composed_form_is_no_shorter_than_the_bound() -> None:
    """For each composed character, the longest spelling of its parts."""
    longest: dict[str, int] = {}
    for character in map(chr, range(sys.maxunicode + 1)):
        if not "\ud800" <= character <= "\udfff" and len(parts := unicodedata.normalize("NFD", character)) == 1:
            longest[parts] = max(longest.get(parts, 0), len(character.encode()))
    for character in map(chr, range(sys.maxunicode + 1)):
        if not "\ud800" <= character <= "\udfff":
            parts = unicodedata.normalize("NFD", character)
            most = sum(longest.get(part, len(part.encode())) for part in parts)
            assert most <= MAX_NFC_SHRINK * len(unicodedata.normalize("NFC", character).encode()), hex(ord(character))


def stripping() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("<user>", rstrip=True)])
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]")),
        Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0)),
        Tokenizer(models.BPE({"a": 0}, [])),  # drops what it does not know
        Tokenizer(models.BPE({"a": 0, "<unk>": 1}, [], unk_token="<unk>", fuse_unk=True)),
        changed(lacking("é"), normalizer=normalizers.NFC()),
        changed(byte_level(), normalizer=normalizers.Strip()),
        changed(byte_level(), normalizer=normalizers.NFKC()),
        changed(byte_level(), normalizer=normalizers.Replace(Regex(r"\s+"), " ")),
        changed(
            byte_level(),
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(use_regex=False)]
            ),
        ),
        changed(with_fallback(), normalizer=normalizers.Replace("  ", " ")),
        changed(with_fallback(), pre_tokenizer=pre_tokenizers.WhitespaceSplit()),
        stripping(),
    ],
    ids=str,
)
def test_where_texts_may_shrink_nothing_is_said(tokenizer: Tokenizer) -> None:
    assert find_longest_token(tokenizer) is None

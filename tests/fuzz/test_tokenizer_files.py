"""Damaged and hostile tokenizer files: each is used, or refused in one line that a user can act on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ..tiny import write_checkpoint
from .folder_use import damage, find_problems, make_plan, use_tokenizer
from .mutations import damage_bytes

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
CONFIG: dict[str, Any] = {
    "added_tokens_decoder": {
        "256": {"content": "<s>", "lstrip": False, "normalized": False, "special": True},
        "257": {"content": "</s>", "special": True},
        "258": {"content": "<tool>", "rstrip": True, "single_word": False, "special": False},
    },
    "bos_token": "<s>",
    "eos_token": {"content": "</s>", "__type": "AddedToken"},
    "chat_template": [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": TEMPLATE}],
    "model_max_length": 512,
    "padding_side": "left",
    "truncation_side": "left",
    "clean_up_tokenization_spaces": False,
    "tokenizer_class": "PreTrainedTokenizerFast",
}
SPECIAL = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "additional_special_tokens": ["<tool>"]}


def byte_level() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate([*alphabet, "th", "the", "Ġt"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("t", "h"), ("th", "e"), ("Ġ", "t")]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>"), AddedToken("</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A", "<s> $A $B:1", [("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def byte_fallback() -> Tokenizer:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "t", "h", "th", "▁th"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [("t", "h"), ("▁", "th")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def unigram() -> Tokenizer:
    pieces = [("<unk>", 0.0), ("▁", -1.0), *((chr(97 + i), -2.0 - i / 10) for i in range(26)), ("▁the", -3.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def word_piece() -> Tokenizer:
    words = ["[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnop")]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


SEEDS: list[dict[str, Any]] = [json.loads(make().to_str()) for make in (byte_level, byte_fallback, unigram, word_piece)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("tokenizers") / "model")
    torch.set_num_threads(1)
    for name, content in files_of(SEEDS[0]).items():
        (folder / name).write_bytes(content)
    work(folder)
    return folder


def files_of(tokenizer: dict[str, Any]) -> dict[str, bytes]:
    written = {"tokenizer.json": tokenizer, "tokenizer_config.json": CONFIG}
    return {name: json.dumps(value).encode() for name, value in written.items()}


def work(folder: Path) -> None:
    use_tokenizer(folder, make_plan(folder))


def damaged_files(rng: random.Random) -> dict[str, bytes]:
    tokenizer = rng.choice(SEEDS)
    files = files_of(tokenizer)
    match rng.randrange(10):
        case 0 | 1 | 2:
            files["tokenizer_config.json"] = damage(CONFIG, rng)
        case 3:
            files["tokenizer_config.json"] = b"{}"
            files["special_tokens_map.json"] = damage(SPECIAL, rng)
        case 4:
            files["chat_template.jinja"] = damage_bytes(TEMPLATE.encode(), rng)
        case 5:
            files["chat_template.json"] = damage({"chat_template": TEMPLATE}, rng)
        case 6:
            # Most places of a vocabulary are tokens; this damages the rest of the file.
            outer = {key: value for key, value in tokenizer.items() if key != "model"}
            files["tokenizer.json"] = json.dumps({**_damaged(outer, rng), "model": tokenizer["model"]}).encode()
        case _:
            files["tokenizer.json"] = damage(tokenizer, rng)
    return files


def _damaged(value: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    try:
        found = json.loads(damage(value, rng))
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, dict) else value


def sweep(folder: Path, seeds: range) -> list[str]:
    return find_problems(folder, seeds, damaged_files, work)


def test_damaged_tokenizer_files(folder: Path) -> None:
    assert not sweep(folder, range(100))


@pytest.mark.sweep
@pytest.mark.parametrize("part", range(10))
def test_many_damaged_tokenizer_files(folder: Path, part: int) -> None:
    assert not sweep(folder, range(1000 + 200 * part, 1200 + 200 * part))

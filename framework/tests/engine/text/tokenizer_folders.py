"""Small tokenizers of each kind, as folders of a Hugging Face checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXTS = [
    "Hello, world! It's 12345 o'clock.",
    "  leading   and trailing \t\n\n ",
    "你好，世界！ こんにちは 안녕하세요",
    "Привет, naïve café e\u0301 नमस्ते ภาษาไทย",
    "👍🏽👨\u200d👩\u200d👧 🚀 “quoted” … — \ufffd",
    "def f(x):\n\treturn x ** 2\r\n",
    "",
    " ",
    "a",
    "<s>special</s> <|user|> text",
]
SPECIAL = ["<unk>", "<s>", "</s>"]


def byte_level() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS[:6], trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_tokens([AddedToken("<|user|>", special=False, normalized=False)])
    return backend


def byte_fallback(strip: bool = True) -> Tokenizer:
    pieces = ["\u2581", "\u2581\u2581", "H", "e", "l", "o", "a", "s", "p", "c", "i", "t", "x", "He", "ll", "\u2581a"]
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [("H", "e"), ("l", "l"), ("\u2581", "a"), ("\u2581", "\u2581")]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    last = [decoders.Strip(" ", 1, 0)] if strip else []
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *last]
    backend.decoder = decoders.Sequence(steps)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens(SPECIAL)
    return backend


def word_piece() -> Tokenizer:
    words = ["hello", "world", "##s", "un", "##able", ",", "!", "a", "do", "n", "'", "t"]
    vocabulary = {token: i for i, token in enumerate(["[UNK]", "[CLS]", "[SEP]", *words])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    return backend


def metaspace() -> Tokenizer:
    pieces = ["\u2581hello", "\u2581world", "\u2581", "h", "e", "l", "o", "w", "r", "d", "\u2581a", "你", "好"]
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), *((p, -float(i)) for i, p in enumerate(pieces, 1))], 0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<unk>"])
    return backend


def suffixed() -> Tokenizer:
    """Words that end in a mark, as in the first GPT and CLIP."""
    vocabulary = {token: i for i, token in enumerate(["h", "i", "i</w>", "hi</w>", "a</w>", "o</w>", "<unk>"])}
    backend = Tokenizer(models.BPE(vocabulary, [("h", "i</w>")], end_of_word_suffix="</w>", unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    backend.decoder = decoders.BPEDecoder("</w>")
    return backend


KINDS = {
    "byte_level": byte_level,
    "byte_fallback": byte_fallback,
    "byte_fallback_unstripped": lambda: byte_fallback(strip=False),
    "word_piece": word_piece,
    "metaspace": metaspace,
    "suffixed": suffixed,
}


def write(folder: Path, backend: Tokenizer, **files: Any) -> Path:
    """Write ``tokenizer.json`` and others; ``files`` are JSON values by name without ``.json``."""
    backend.save(str(folder / "tokenizer.json"))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder

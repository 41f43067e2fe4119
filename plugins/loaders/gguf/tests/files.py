"""Small GGUF files for the tests, written with the format's own package."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

DATA = Path(__file__).parent / "data"
VOCABULARY: dict[str, Any] = json.loads((DATA / "vocabulary.json").read_text(encoding="utf-8"))
"""A made-up vocabulary. Its merges were learnt on unsplit text, so that they cross every place where a pre-tokenizer may
cut, and a wrong cut shows."""

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def write(path: Path, tensors: Mapping[str, Any] | None = None, architecture: str = "llama", **metadata: Any) -> Path:
    """Write a model.

    Args:
        tensors: name → a float array, or (rows of bytes, ggml type).
        metadata: whole numbers, strings, truth values, or lists of them; ``__`` in a key stands for a dot.
    """
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        _add(writer, key.replace("__", "."), value)
    for name, value in (tensors or {}).items():
        if isinstance(value, tuple):
            writer.add_tensor(name, value[0], raw_dtype=value[1])
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    if tensors:
        writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if key == "general.alignment":
        writer.add_custom_alignment(value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def model(path: Path, **metadata: Any) -> Path:
    """A file with two plain tensors and a quantized one."""
    rng = np.random.default_rng(0)
    tensors = {
        "token_embd.weight": rng.standard_normal((6, 64), dtype=np.float32),
        "blk.0.attn_norm.weight": np.arange(64, dtype=np.float16),
        "blk.0.attn_q.weight": (
            rng.integers(0, 256, (4, 40), dtype=np.uint8),
            gguf.GGMLQuantizationType.Q4_1,
        ),
    }
    return write(path, tensors, llama__context_length=128, **metadata)


def tokenizer_keys(kind: str, tokens: Sequence[str], types: Sequence[int], **others: Any) -> dict[str, Any]:
    keys = {"model": kind, "tokens": list(tokens), "token_type": list(types), **others}
    return {f"tokenizer__ggml__{key}": value for key, value in keys.items()}


def byte_level(path: Path, pre: str, **others: Any) -> Path:
    """Byte-level BPE with the given pre-tokenizer."""
    special = ["<s>", "</s>", "<|user|>"]
    merges: list[str] = VOCABULARY["byte_level"]["merges"]
    tokens = [*special, *VOCABULARY["byte_level"]["alphabet"]]
    tokens += dict.fromkeys(token for merge in merges if (token := merge.replace(" ", "")) not in tokens)
    types = [CONTROL, CONTROL, USER_DEFINED] + [NORMAL] * (len(tokens) - 3)
    keys = {"pre": pre, "merges": merges, "bos_token_id": 0, "eos_token_id": 1, "add_bos_token": False, **others}
    return write(path, **tokenizer_keys("gpt2", tokens, types, **keys))


def sentencepiece(path: Path, **others: Any) -> Path:
    """SentencePiece BPE with byte fallback; runs of spaces have one score, as in Llama 2."""
    pieces: list[str] = VOCABULARY["sentencepiece"]
    tokens = ["<unk>", "<s>", "</s>", "<|user|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [UNKNOWN, CONTROL, CONTROL, USER_DEFINED] + [BYTE] * 256 + [NORMAL] * len(pieces)
    scores = [0.0] * len(tokens) + [-1e9 if set(p) == {SPACE} else -float(i) for i, p in enumerate(pieces)]
    keys = {"scores": scores, "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, **others}
    return write(path, **tokenizer_keys("llama", [*tokens, *pieces], types, **keys))


def wordpiece(path: Path, **others: Any) -> Path:
    """BERT's WordPiece, written as the format does: the start of a word is marked."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [SPACE + piece for piece in VOCABULARY["words"]] + VOCABULARY["suffixes"]
    types = [CONTROL] * 5 + [NORMAL] * len(pieces)
    keys = {"bos_token_id": 2, "seperator_token_id": 3, "unknown_token_id": 1, "padding_token_id": 0, **others}
    return write(path, architecture="bert", **tokenizer_keys("bert", [*special, *pieces], types, **keys))


def unigram(path: Path, **others: Any) -> Path:
    """SentencePiece's unigram model, without a character map. Its pieces never reach over a space."""
    pieces = [piece for piece in VOCABULARY["sentencepiece"] if SPACE not in piece[1:]] + [SPACE]
    pieces = list(dict.fromkeys(pieces))
    types = [CONTROL, CONTROL, UNKNOWN] + [NORMAL] * len(pieces)
    scores = [0.0] * 3 + [-2.0 - 1.5 * i**0.5 / len(piece) for i, piece in enumerate(pieces)]
    keys = {"scores": scores, "eos_token_id": 1, "unknown_token_id": 2, "add_space_prefix": True, **others}
    keys["remove_extra_whitespaces"] = True
    return write(path, architecture="t5", **tokenizer_keys("t5", ["<pad>", "</s>", "<unk>", *pieces], types, **keys))


def spaced(path: Path, **others: Any) -> Path:
    """BPE with merges over text whose spaces are characters, as in Gemma 4."""
    pieces: list[str] = VOCABULARY["sentencepiece"]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [CONTROL, CONTROL, CONTROL, UNKNOWN] + [BYTE] * 256 + [NORMAL] * len(pieces)
    known = set(pieces)
    merges = [
        next(f"{p[:i]} {p[i:]}" for i in range(len(p) - 1, 0, -1) if p[:i] in known and p[i:] in known)
        for p in pieces
        if len(p) > 1
    ]
    keys = {"merges": merges, "bos_token_id": 2, "eos_token_id": 1, "unknown_token_id": 3, **others}
    return write(path, **tokenizer_keys("gemma4", tokens, types, **keys))


KINDS = {"llama": sentencepiece, "bert": wordpiece, "t5": unigram, "gemma4": spaced}

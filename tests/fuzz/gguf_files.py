"""GGUF files as lists of their parts, so that each part can be damaged and the file written again.

It reads and writes what the format's own package refuses: absurd counts, unknown types, repeated keys. The writing side of
whole files is that package's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

STRING, ARRAY = 8, 9
CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
"""Number of a value's type → struct code."""


@dataclass
class Entry:
    """A metadata entry; an array's value is (type of its elements, elements)."""

    key: bytes
    type: int
    value: Any


@dataclass
class Tensor:
    """A tensor's description; the dimensions are in the file's order, columns first."""

    name: bytes
    dims: list[int]
    type: int
    offset: int


@dataclass
class Parts:
    """A file's parts; ``counts`` replaces the numbers of tensors and entries that the header states."""

    version: int = 3
    entries: list[Entry] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    data: bytes = b""
    counts: tuple[int, int] | None = None

    def write(self) -> bytes:
        counts = self.counts or (len(self.tensors), len(self.entries))
        out = bytearray(b"GGUF" + struct.pack("<IQQ", self.version % 2**32, *counts))
        for entry in self.entries:
            out += _text(entry.key) + struct.pack("<I", entry.type) + _value(entry.type, entry.value)
        for tensor in self.tensors:
            out += _text(tensor.name) + struct.pack("<I", len(tensor.dims))
            out += struct.pack(f"<{len(tensor.dims)}QIQ", *tensor.dims, tensor.type, tensor.offset)
        out += bytes(-len(out) % 32)
        return bytes(out) + self.data


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _value(type_: int, value: Any) -> bytes:
    if type_ == STRING:
        return _text(value)
    if type_ == ARRAY:
        element, items = value
        if element in CODES:
            return struct.pack(f"<IQ{len(items)}{CODES[element]}", element, len(items), *items)
        return struct.pack("<IQ", element, len(items)) + b"".join(_value(element, item) for item in items)
    return struct.pack(f"<{CODES[type_]}", value) if type_ in CODES else b"\x00" * 4


def read_parts(raw: bytes) -> Parts:
    """Take a whole, valid file apart."""
    at = 24

    def numbers(code: str) -> tuple[Any, ...]:
        nonlocal at
        found = struct.unpack_from(f"<{code}", raw, at)
        at += struct.calcsize(f"<{code}")
        return found

    def text() -> bytes:
        nonlocal at
        (length,) = numbers("Q")
        at += length
        return raw[at - length : at]

    def value(type_: int) -> Any:
        if type_ == STRING:
            return text()
        if type_ != ARRAY:
            return numbers(CODES[type_])[0]
        element, count = numbers("IQ")
        if element in CODES:
            return element, list(numbers(f"{count}{CODES[element]}"))
        return element, [value(element) for _ in range(count)]

    version, tensor_count, entry_count = struct.unpack_from("<IQQ", raw, 4)
    parts = Parts(version)
    for _ in range(entry_count):
        key, (type_,) = text(), numbers("I")
        parts.entries.append(Entry(key, type_, value(type_)))
    for _ in range(tensor_count):
        name, (ndim,) = text(), numbers("I")
        dims = list(numbers(f"{ndim}Q"))
        parts.tensors.append(Tensor(name, dims, *numbers("IQ")))
    parts.data = raw[at + -at % 32 :]
    return parts


# -- whole, valid files


def write_llama(
    path: Path, tokenizer: str, weights: Sequence[str] = ("F32",), *, hidden: int = 64, tied: bool = False
) -> Path:
    """A tiny Llama with one of the kinds of tokenizers.

    Args:
        tokenizer: a value of ``tokenizer.ggml.model``.
        weights: types of the matrices, which take turns.
        hidden: columns of most of them, which must fill blocks.
    """
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    tokens = _add_tokenizer(writer, tokenizer)
    heads, kv_heads, inner, layers = 4, 2, hidden, 2
    writer.add_name("tiny")
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(hidden // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(2.0)
    writer.add_chat_template("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}")
    shapes = {"token_embd": (tokens, hidden), "output_norm": (hidden,)} | ({} if tied else {"output": (tokens, hidden)})
    for i in range(layers):
        block = {
            "attn_norm": (hidden,),
            "ffn_norm": (hidden,),
            "attn_q": (hidden, hidden),
            "attn_output": (hidden, hidden),
        }
        block |= {"attn_k": (hidden // 2, hidden), "attn_v": (hidden // 2, hidden)}
        block |= {"ffn_gate": (inner, hidden), "ffn_up": (inner, hidden), "ffn_down": (hidden, inner)}
        shapes |= {f"blk.{i}.{name}": shape for name, shape in block.items()}
    for i, (name, shape) in enumerate(shapes.items()):
        type_ = gguf.GGMLQuantizationType[weights[i % len(weights)] if len(shape) == 2 else "F32"]
        values = (rng.standard_normal(shape) / 16).astype(np.float32)
        try:
            stored = gguf.quants.quantize(values, type_)
        except NotImplementedError:  # the package only reads this type
            stored = np.zeros(gguf.quants.quant_shape_to_byte_shape(shape, type_), np.uint8)
        writer.add_tensor(f"{name}.weight", stored, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, kind: str) -> int:
    """Add a vocabulary; returns its number of tokens."""
    alphabet = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
    words = ["th", "the", "an", "and", "\u2581the", "\u2581and"]
    special = ["<unk>", "<s>", "</s>", "<|user|>"] if kind != "bert" else ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    tokens = (
        special + [f"<0x{b:02X}>" for b in range(256)] * (kind == "llama") + alphabet + ["\u2581", "\u0120", *words]
    )
    types = [2, 3, 3, 4] + [6] * (256 * (kind == "llama"))
    types += [1] * (len(tokens) - len(types))
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if kind == "gpt2":
        writer.add_tokenizer_pre("smollm")
    if kind in ("gpt2", "gemma4"):
        writer.add_token_merges(["t h", "th e", "a n", "an d"])
    if kind in ("llama", "t5"):
        writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if kind == "bert":
        writer.add_sep_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)
    return len(tokens)


def split(whole: Path, folder: Path) -> list[Path]:
    """The same model in two files, as llama.cpp's tool for splitting names them."""
    parts = read_parts(whole.read_bytes())
    half = len(parts.tensors) // 2
    border = parts.tensors[half].offset
    written = []
    for number, tensors in enumerate((parts.tensors[:half], parts.tensors[half:])):
        data = parts.data[:border] if number == 0 else parts.data[border:]
        described = [Tensor(t.name, t.dims, t.type, t.offset - number * border) for t in tensors]
        entries = parts.entries if number == 0 else []
        counts = (("split.no", 2, number), ("split.count", 2, 2), ("split.tensors.count", 5, len(parts.tensors)))
        entries = [*entries, *(Entry(key.encode(), type_, value) for key, type_, value in counts)]
        written.append(folder / f"tiny-{number + 1:05}-of-00002.gguf")
        written[-1].write_bytes(Parts(3, entries, described, data).write())
    return written


SEEDS: dict[str, dict[str, Any]] = {
    "gpt2": {"weights": ("F32",)},
    "llama": {"weights": ("Q4_0", "Q8_0", "F16"), "tied": True},
    "t5": {"weights": ("F16",)},
    "bert": {"weights": ("Q5_1", "Q4_1", "Q5_0")},
    "gemma4": {"weights": ("Q4_K", "Q6_K", "BF16"), "hidden": 256},
}
"""Kind of tokenizer → the other arguments of :func:`write_llama`."""

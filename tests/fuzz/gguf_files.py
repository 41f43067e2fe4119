"""GGUF files as lists of their parts, so that each part can be damaged and the file written again.

It reads and writes what the format's own package refuses: absurd counts, unknown types, repeated keys. The writing side of
whole files is that package's.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

STRING, ARRAY = 8, 9
CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
"""Number of a value's type → struct code."""
INTEGERS = {0: (0, 255), 1: (-128, 127), 2: (0, 2**16 - 1), 3: (-(2**15), 2**15 - 1), 4: (0, 2**32 - 1)}
INTEGERS |= {5: (-(2**31), 2**31 - 1), 10: (0, 2**64 - 1), 11: (-(2**63), 2**63 - 1)}
SIZES = (0, 1, 2, 3, 7, 2**16, 10**6, 2**31 - 1, 2**31, 2**32 - 1, 10**12, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
FLOATS = (0.0, -0.0, -1.0, 1e-45, 1e38, -1e38, 5e-324, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = (b"", b"x", b"llama", b"\x1b]0;title\x07", b"a\nb\r\n", b"\xff\xfe\xed\xa0\x80", b"y" * 70_000, "\u202e é".encode(), b"{{ 1/0 }}", b"../../x", b"%s{0}")
OTHER_KEYS = (
    "split.count",
    "split.no",
    "split.tensors.count",
    "general.type",
    "llama.vocab_size",
    "llama.expert_count",
    "llama.attention.value_length",
    "llama.attention.sliding_window",
    "llama.rope.dimension_count",
    "llama.rope.scaling.original_context_length",
    "llama.rope.scaling.attn_factor",
    "llama.rope.scaling.yarn_beta_fast",
    "llama.rope.scaling.yarn_ext_factor",
    "llama.embedding_scale",
    "llama.logit_scale",
    "tokenizer.chat_template.tool_use",
    "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.ggml.remove_extra_whitespaces",
    "tokenizer.ggml.normalizer.lowercase",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.seperator_token_id",
    "tokenizer.ggml.add_eos_token",
    "tied_embeddings",
)
"""Keys that are read, and that the whole files below lack."""


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


def damage_parts(whole: Parts, rng: random.Random) -> Parts:
    """A copy with one to three parts damaged."""
    parts = deepcopy(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if parts.tensors and rng.random() < 0.35:
            _damage_tensor(parts, rng)
        elif parts.entries and rng.random() < 0.9:
            _damage_entry(parts, rng)
        else:
            _damage_file(parts, rng)
    return parts


def _damage_file(parts: Parts, rng: random.Random) -> None:
    match rng.randrange(9):
        case 0:
            counts = [len(parts.tensors), len(parts.entries)]
            counts[rng.randrange(2)] = rng.choice(SIZES)
            parts.counts = (counts[0], counts[1])
        case 1:
            parts.version = rng.choice((0, 1, 2, 4, 2**24 * 3, 2**32 - 1))
        case 2:
            parts.data = parts.data[: rng.randrange(len(parts.data) + 1)]
        case 3:
            parts.data += rng.randbytes(rng.choice((1, 31, 5000)))
        case 4 if parts.data:  # weights that are not numbers, or far too large
            at = rng.randrange(len(parts.data))
            piece = rng.choice((b"\xff", b"\x7f\x80\x00\x00", b"\x00\x7c", rng.randbytes(64))) * rng.choice((1, 100))
            parts.data = (parts.data[:at] + piece + parts.data[at + len(piece) :])[: len(parts.data)]
        case 5:
            parts.entries.append(Entry(b"general.alignment", 4, rng.choice((0, 1, 3, 31, 64, 2**20, 2**31, 2**32 - 1))))
        case _:
            parts.entries.append(Entry(rng.choice(OTHER_KEYS).encode(), *random_value(rng)))


def _damage_tensor(parts: Parts, rng: random.Random) -> None:
    at = rng.randrange(len(parts.tensors))
    tensor = parts.tensors[at]
    match rng.randrange(8):
        case 0:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(SIZES)
        case 1:
            place = rng.randrange(len(tensor.dims))
            tensor.dims[place] = max(0, tensor.dims[place] + rng.choice((-32, -1, 1, 32, tensor.dims[place])))
        case 2:
            tensor.dims = rng.choice(([], tensor.dims * 2, tensor.dims * 3, [1, *tensor.dims], tensor.dims[:1], tensor.dims[::-1]))
        case 3:
            tensor.type = rng.choice((*range(45), 2**31, 2**32 - 1))
        case 4:
            tensor.offset = rng.choice((*SIZES, tensor.offset + 1, tensor.offset + 32, max(0, tensor.offset - 32)))
        case 5:
            tensor.name = rng.choice((*TEXTS, tensor.name + b"x", rng.choice(parts.tensors).name, b"blk.999999999999.attn_q.weight"))
        case 6:
            del parts.tensors[at]
        case 7:
            parts.tensors.append(deepcopy(tensor))


def _damage_entry(parts: Parts, rng: random.Random) -> None:
    at = rng.randrange(len(parts.entries))
    entry = parts.entries[at]
    match rng.randrange(10):
        case 0:
            del parts.entries[at]
        case 1:
            parts.entries.append(deepcopy(entry))
        case 2:
            entry.key = rng.choice((*TEXTS, entry.key + b".x", rng.choice(parts.entries).key))
        case 3 if entry.type == ARRAY and entry.value[1]:
            _damage_items(entry, rng)
        case 4 | 5 if entry.type in INTEGERS:  # a plausible type, an absurd number
            low, high = INTEGERS[entry.type]
            wanted = (0, 1, -1, entry.value + 1, -entry.value, entry.value * 10**6, entry.value * 10**12, low, high)
            entry.value = min(max(rng.choice(wanted), low), high)
        case 6 if entry.type in INTEGERS:
            entry.type = rng.choice((5, 10, 11))
            entry.value = min(max(rng.choice((*SIZES, -1, -(2**31))), INTEGERS[entry.type][0]), INTEGERS[entry.type][1])
        case 7 | 8 if entry.type != ARRAY:  # the right type
            entry.value = _random_item(entry.type, rng)
        case _:
            entry.type, entry.value = random_value(rng)


def _damage_items(entry: Entry, rng: random.Random) -> None:
    element, items = entry.value
    match rng.randrange(5):
        case 0:
            del items[rng.randrange(len(items)) :]
        case 1:
            items[:] = items * 2
        case 2:
            items[rng.randrange(len(items))] = items[rng.randrange(len(items))]
        case 3:
            entry.value = random_array(rng)
        case 4:
            for _ in range(rng.choice((1, 10, len(items)))):
                items[rng.randrange(len(items))] = _random_item(element, rng)


def _random_item(type_: int, rng: random.Random) -> Any:
    if type_ in INTEGERS:
        low, high = INTEGERS[type_]
        return min(max(rng.choice((*SIZES, -1)), low), high)
    if type_ in (6, 12):
        number = rng.choice(FLOATS)
        return number if type_ == 12 or abs(number) < 3e38 or not math.isfinite(number) else 3e38
    if type_ == 7:
        return rng.choice((0, 1, 2, 255))
    return rng.choice(TEXTS) if type_ == STRING else random_array(rng)


def random_array(rng: random.Random, depth: int = 0) -> tuple[int, list[Any]]:
    element = rng.choice((0, 4, 5, 6, 7, STRING, ARRAY if depth < 6 else 5, 10, 11, 12))
    count = rng.choice((0, 1, 2, 30, 2000 if element != ARRAY else 2))
    if element == ARRAY:
        return element, [random_array(rng, depth + 1) for _ in range(min(count, 2))]
    return element, [_random_item(element, rng) for _ in range(count)]


def random_value(rng: random.Random) -> tuple[int, Any]:
    """A metadata value of any type, an unknown one among them."""
    type_ = rng.choice((*CODES, *CODES, STRING, STRING, STRING, ARRAY, ARRAY, 13, 2**31))
    if type_ == ARRAY:
        return type_, random_array(rng)
    return type_, _random_item(type_, rng) if type_ in CODES or type_ == STRING else 0


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
        block = {"attn_norm": (hidden,), "ffn_norm": (hidden,), "attn_q": (hidden, hidden), "attn_output": (hidden, hidden)}
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
    tokens = special + [f"<0x{b:02X}>" for b in range(256)] * (kind == "llama") + alphabet + ["\u2581", "\u0120", *words]
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

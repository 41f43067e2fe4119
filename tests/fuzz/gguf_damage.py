"""Damages the parts of a GGUF file: absurd numbers, other types, repeated and missing names."""

from __future__ import annotations

import math
import random
from copy import deepcopy
from typing import Any

from .gguf_files import ARRAY, CODES, STRING, Entry, Parts

INTEGERS = {0: (0, 255), 1: (-128, 127), 2: (0, 2**16 - 1), 3: (-(2**15), 2**15 - 1), 4: (0, 2**32 - 1)}
INTEGERS |= {5: (-(2**31), 2**31 - 1), 10: (0, 2**64 - 1), 11: (-(2**63), 2**63 - 1)}
SIZES = (0, 1, 2, 3, 7, 2**16, 10**6, 2**31 - 1, 2**31, 2**32 - 1, 10**12, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
FLOATS = (0.0, -0.0, -1.0, 1e-45, 1e38, -1e38, 5e-324, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    b"",
    b"x",
    b"llama",
    b"\x1b]0;title\x07",
    b"a\nb\r\n",
    b"\xff\xfe\xed\xa0\x80",
    b"y" * 70_000,
    "\u202e é".encode(),
    b"{{ 1/0 }}",
    b"../../x",
    b"%s{0}",
)
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
            tensor.dims = rng.choice(
                ([], tensor.dims * 2, tensor.dims * 3, [1, *tensor.dims], tensor.dims[:1], tensor.dims[::-1])
            )
        case 3:
            tensor.type = rng.choice((*range(45), 2**31, 2**32 - 1))
        case 4:
            tensor.offset = rng.choice((*SIZES, tensor.offset + 1, tensor.offset + 32, max(0, tensor.offset - 32)))
        case 5:
            tensor.name = rng.choice(
                (*TEXTS, tensor.name + b"x", rng.choice(parts.tensors).name, b"blk.999999999999.attn_q.weight")
            )
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

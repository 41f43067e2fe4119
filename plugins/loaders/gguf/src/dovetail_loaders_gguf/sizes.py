"""Compares the sizes in a file's metadata with its tensors, before anything is built from them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from dovetail.api import CheckpointError
from dovetail_loaders_gguf.cursor import StringArray
from dovetail_loaders_gguf.header import MAX_NUMBER, Header, TensorInfo

EMBEDDING = "token_embd.weight"
LAYER = re.compile(r"(?:blk|enc\.blk|dec\.blk)\.(\d{1,9})\.")
LAYERS, EXTRA_LAYERS = "block_count", "nextn_predict_layers"
"""The layers of a model, and those among them that guess further tokens, which many files leave out."""
SIZES = re.compile(r"(?:_length|_count|_size)(?:_\w+)?$")
"""Keys of an architecture that count something, for the whole model or in a list with an entry for each layer."""
NUMBERS = re.compile(r"(?:epsilon|freq_base|[._]scale|factor)$")
"""Keys of other numbers."""
REPAIR = "convert the model anew, or fetch the file again"


def check_sizes(header: Header, architecture: str, tensors: Mapping[str, TensorInfo]) -> None:
    """Check the numbers of an architecture: finite, and no count larger than what the tensors have.

    Args:
        header: with the metadata.
        tensors: of all parts, by name.

    Raises:
        CheckpointError: names the entry, the file, and what was wanted and found.
    """
    prefix = f"{architecture}."
    longest = max((n for tensor in tensors.values() for n in tensor.shape), default=0)
    for key, value in header.metadata.items():
        name = key.removeprefix(prefix)
        counts = SIZES.search(name) is not None
        if name == key or not (counts or NUMBERS.search(name)):
            continue
        bounded = counts and tensors and name != LAYERS and not name.endswith("context_length")
        for number in value if isinstance(value, tuple) else (value,):
            fault = _find_fault(number, counts)
            if fault is None and bounded and number > longest:
                fault = f"at most {longest}, the longest side of any tensor"
            if fault is not None:
                header.refuse(key, fault)
    if tensors:
        _check_layers(header, prefix, tensors)
    if (embedding := tensors.get(EMBEDDING)) is not None and len(embedding.shape) == 2:
        rows, columns = embedding.shape
        _check_equal(header, f"{prefix}vocab_size", rows, "rows")
        _check_equal(header, f"{prefix}embedding_length", columns, "columns")
        tokens = header.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, StringArray) and len(tokens) > rows:
            raise CheckpointError(
                f"tokenizer.ggml.tokens in {header.path} has {len(tokens)} tokens, and {EMBEDDING} has {rows} rows",
                REPAIR,
            )


def _find_fault(number: Any, counts: bool) -> str | None:
    """What was wanted in place of a value, or None if it is right."""
    if counts:
        right = type(number) is int and 0 <= number < MAX_NUMBER
        return None if right else f"a whole number from 0 to {MAX_NUMBER - 1}"
    right = type(number) in (int, float) and math.isfinite(number)
    return None if right else "a number"


def _check_layers(header: Header, prefix: str, tensors: Mapping[str, TensorInfo]) -> None:
    found = {int(match[1]) for match in map(LAYER.match, tensors) if match}
    # Without layers that are named as usual, each still needs a tensor.
    most = max(found) + 1 if found else len(tensors)
    stated, extra = (header.number(f"{prefix}{key}", 0) for key in (LAYERS, EXTRA_LAYERS))
    if stated - extra > most:
        header.refuse(f"{prefix}{LAYERS}", f"at most {most}, for so many layers have tensors")


def _check_equal(header: Header, key: str, found: int, sides: str) -> None:
    if key in header.metadata and header.metadata[key] != found:
        header.refuse(key, f"{found}, for {EMBEDDING} has so many {sides}")

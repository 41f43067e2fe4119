"""Describes a model in Mistral's own files without torch: its configuration, its files and its tokenizer."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dovetail.api import (
    DOWNLOAD_AGAIN,
    Checkpoint,
    CheckpointError,
    ModelFiles,
    one_line,
    quote_foreign,
    read_index,
    read_json,
    select_files,
)

NAMING = "mistral"
PARAMS, SINGLE = "params.json", "consolidated.safetensors"
DENSE, SPARSE = "mistral", "mixtral"
"""Names of the two architectures: the files themselves do not name them."""
TEKKEN = "tekken.json"
SENTENCEPIECE = re.compile(r"tokenizer\.model(?:\.v(\d+)(?:m\d+)?)?")
TOKENIZER = "dovetail_loaders_mistral.tokenizer:read_tokenizer"
DTYPES = {
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F8_E4M3": "float8_e4m3fn",
    "I8": "int8",
    "U8": "uint8",
    "I32": "int32",
    "I64": "int64",
}
"""The format's dtype → torch's."""
COMPUTED = ("bfloat16", "float16", "float32")
MAX_NAME, MAX_ELEMENTS = 1024, 2**63


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: its file, its name, torch dtype's name and shape."""

    file: str
    name: str
    type: str
    shape: tuple[int, ...]


def accepts(path: str, files: tuple[str, ...]) -> str | None:
    """Why this loader should not read the files, or None."""
    folder = _folder(path)
    if not (folder / PARAMS).is_file():
        return f"found no {PARAMS} beside them"
    names = {file.name for file in folder.iterdir()}
    others = {name for name in names if name.lower().endswith(".safetensors")} - {Path(file).name for file in files}
    if others and {"config.json", "tokenizer.json"} <= names and not Path(path).is_file():
        return "the folder has the same model in the form of transformers, too"
    return None


def inspect(path: str, files: tuple[str, ...]) -> Checkpoint:
    """Describe the model at a model reference.

    Args:
        path: the folder or the file of the reference.
        files: the consolidated files found there, as full paths.

    Raises:
        CheckpointError: files are missing, truncated or malformed.
    """
    folder, where = _folder(path), Path(path)
    params = folder / PARAMS
    if not params.is_file():
        raise CheckpointError(f"wanted {PARAMS} in {folder}, found none", "complete the download")
    names = [Path(file).name for file in files] or [where.name]
    selection = ModelFiles(names) if where.is_file() else select_files(folder, names, SINGLE, ())
    chosen = tuple(str(folder / name) for name in selection.files)
    values = read_json(params, dict, CheckpointError)
    tensors = tensors_of(chosen, selection.index)
    types = Counter(tensor.type for tensor in tensors)
    computed: Counter[str] = Counter()
    for tensor in tensors:
        if tensor.type in COMPUTED:
            computed[tensor.type] += math.prod(tensor.shape)
    metadata = {
        "file": str(params),
        "params": values,
        "index": selection.index,
        "dtype": computed.most_common(1)[0][0] if computed else None,
    }
    found: dict[str, Any] = {}
    if tokenizer := find_tokenizer(folder):
        found = {"tokenizer": TOKENIZER, "tokenizer_path": str(tokenizer)}
    return Checkpoint(
        path=path,
        files=chosen,
        naming=NAMING,
        architecture=SPARSE if values.get("moe") else DENSE,
        metadata=metadata,
        tensor_types=dict(sorted(types.items())),
        generation_config=_sampling(folder),
        **found,
    )


def tensors_of(files: Sequence[str], index: str | None) -> list[TensorInfo]:
    """Every tensor. If two have one name, the one in the index counts.

    Raises:
        CheckpointError: a file is truncated or malformed, or no index decides between two tensors.
    """
    listed = read_index(Path(index)) if index else {}
    found: dict[str, TensorInfo] = {}
    for file in files:
        for tensor in _read_header(file):
            other = found.get(tensor.name)
            if other is not None and (wanted := listed.get(tensor.name)) != Path(file).name:
                if wanted != Path(other.file).name:
                    raise CheckpointError(
                        f"tensor {quote_foreign(tensor.name)} stands both in {other.file} and in {file}",
                        "remove the file that does not belong to the model",
                    )
                continue
            found[tensor.name] = tensor
    return list(found.values())


def _read_header(file: str) -> list[TensorInfo]:
    with damage_named(file), safe_open(file, framework="np") as opened:
        tensors = []
        for name in opened.keys():  # noqa: SIM118
            part = opened.get_slice(name)
            tensors.append((name, part.get_dtype(), tuple(part.get_shape())))
    for name, dtype, shape in tensors:
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise CheckpointError(
                f"{file} names a tensor {quote_foreign(name)}, wanted 1 to {MAX_NAME} printable characters",
                DOWNLOAD_AGAIN,
            )
        if dtype not in DTYPES or math.prod(n or 1 for n in shape) >= MAX_ELEMENTS:
            raise CheckpointError(
                f"tensor {quote_foreign(name)} in {file} is of dtype {quote_foreign(dtype)} and shape "
                f"{quote_foreign(list(shape))}, wanted one of {', '.join(DTYPES)} and fewer than 2^63 elements",
                "convert the model, or update dovetail-loaders-mistral",
            )
    return [TensorInfo(file, name, DTYPES[dtype], shape) for name, dtype, shape in tensors]


@contextmanager
def damage_named(file: str) -> Iterator[None]:
    """Name the file in the errors of the library that reads it."""
    try:
        yield
    except (SafetensorError, OSError, OverflowError) as error:
        raise CheckpointError(f"cannot read {file} ({one_line(str(error))})", DOWNLOAD_AGAIN) from None


def find_tokenizer(folder: Path) -> Path | None:
    """The tokenizer's file: ``tekken.json``, or else the newest version of a SentencePiece model."""
    if (tekken := folder / TEKKEN).is_file():
        return tekken
    versions = [
        (int(match[1] or 1), file) for file in folder.iterdir() if (match := SENTENCEPIECE.fullmatch(file.name))
    ]
    return max(versions)[1] if versions else None


def _folder(path: str) -> Path:
    where = Path(path)
    return where.parent if where.is_file() else where


def _sampling(folder: Path) -> dict[str, Any]:
    """The sampling parameters of ``generation_config.json``; its token ids are those of the tokenizer."""
    found = read_json(folder / "generation_config.json", dict)
    return {key: value for key, value in found.items() if not key.endswith("_token_id")}

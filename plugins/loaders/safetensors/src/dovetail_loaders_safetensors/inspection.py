"""Which files make up a checkpoint, and what is in them; without torch."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dovetail.api import Checkpoint, CheckpointError
from dovetail_loaders_safetensors.header import DOWNLOAD_AGAIN, read_header

INDEX = ".safetensors.index.json"
SINGLE = "model.safetensors"
SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors")


def inspect(path: str, files: tuple[str, ...]) -> Checkpoint:
    """Describe the checkpoint that a model reference led to.

    Args:
        path: the folder or the file that was asked for.
        files: the safetensors files found there, as full paths.

    Raises:
        CheckpointError: files are missing, truncated or malformed, or two of them hold the same tensor.
    """
    where = Path(path)
    folder = where.parent if where.is_file() else where
    names = [Path(file).name for file in files] or [where.name]
    chosen = [str(folder / name) for name in _select(folder, names)]
    types: Counter[str] = Counter()
    owner: dict[str, str] = {}
    for file in chosen:
        for tensor in read_header(file):
            if tensor.name in owner:
                raise CheckpointError(
                    f"tensor {tensor.name!r} stands both in {owner[tensor.name]} and in {file}",
                    "name the file to load, or remove the one that does not belong to the model",
                )
            owner[tensor.name] = file
            types[tensor.type] += 1
    return Checkpoint(path=path, files=tuple(chosen), tensor_types=dict(sorted(types.items())))


def _select(folder: Path, names: Sequence[str]) -> list[str]:
    """The files that belong to the model: those of the index; else a complete set of numbered shards; else the file of
    the customary name; else all.
    """
    for index in sorted(folder.glob(f"*{INDEX}"), key=lambda file: (file.name != SINGLE + ".index.json", file.name)):
        if wanted := _files_of_index(index, names):
            return _check_present(folder, wanted, f"as {index} lists them")
    if shard := next((m for m in map(SHARD.fullmatch, sorted(names)) if m), None):
        stem, _, count = shard.groups()
        # Names with an absurd count of shards are not trusted with a list of that length.
        if 0 < int(count) <= 10_000:
            wanted = [f"{stem}-{i:0{len(count)}}-of-{count}.safetensors" for i in range(1, int(count) + 1)]
            return _check_present(folder, wanted, f"since {shard[0]} is one of {int(count)}")
    return [SINGLE] if SINGLE in names else sorted(names)


def _files_of_index(index: Path, names: Sequence[str]) -> list[str]:
    """The files that an index lists, or none if it speaks of other files than ``names``."""
    try:
        listed = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"{index} is not an index: wanted a JSON object with a weight_map", DOWNLOAD_AGAIN
        ) from None
    for file in listed:
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{index} lists the file {file!r}, wanted names in its own folder", DOWNLOAD_AGAIN)
    return listed if set(listed) & set(names) else []


def _check_present(folder: Path, wanted: list[str], why: str) -> list[str]:
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"wanted {len(wanted)} files in {folder} {why}, found {len(wanted) - len(missing)}; "
            f"missing: {', '.join(missing)}",
            "complete the download",
        )
    return wanted

"""Finds the GGUF files of the model that a reference means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from dovetail.api import CheckpointError, join_names, open_regular
from dovetail_loaders_gguf.header import MAGIC, Header, read_header

SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)?", re.IGNORECASE)
COMPANION_PREFIX = "mmproj"
"""Prefix of files with the vision encoder of a model."""
COMPANION_TYPES = ("mmproj", "adapter", "imatrix")
COMPANION_ARCHITECTURES = ("clip", "controlvector", "imatrix")
"""Values of ``general.type`` and ``general.architecture`` in files that accompany a model and are not models."""


def parts(path: str, files: Sequence[str] = ()) -> list[str]:
    """The files of the model at ``path``, in order, found by their names. Any part of a split file means all parts.

    Raises:
        CheckpointError: parts are missing, or a folder holds more than one model.
    """
    where = Path(path)
    if where.is_file():
        return _find_shards(where)
    found = sorted({*map(Path, files), *(where.glob("*.gguf") if not files else ())})
    models = {match[1] if (match := SPLIT.fullmatch(file.name)) else file.name: file for file in found}
    chosen = list(models.values())
    if len(chosen) > 1:
        chosen = [file for file in chosen if not file.name.lower().startswith(COMPANION_PREFIX)] or chosen
    if len(chosen) > 1:
        chosen = [file for file in chosen if _leads(file)] or chosen
    if not chosen:
        raise CheckpointError(f"wanted a GGUF file in {path}, found none", "correct the path")
    if len(chosen) > 1:
        raise CheckpointError(
            f"{path} holds {len(chosen)} models: {join_names(sorted(file.name for file in chosen))}",
            "name one of these files instead of the folder",
        )
    return _find_shards(chosen[0])


def with_all_parts(headers: Sequence[Header]) -> list[Header]:
    """The headers of all parts, in order. Used if the metadata lists more parts than the names."""
    count = headers[0].number("split.count", 1)
    if count <= len(headers):
        return list(headers)
    found: dict[int, list[Header]] = {}
    for file in _gguf_files(Path(headers[0].path).parent):
        header = read_header(str(file))
        if all(
            header.metadata.get(key) == headers[0].metadata.get(key) for key in ("split.count", "split.tensors.count")
        ):
            found.setdefault(header.number("split.no", 0), []).append(header)
    # Two files with the same number are parts of two models, and it is unknown which parts belong together.
    if any(len(found.get(number, ())) != 1 for number in range(count)):
        return list(headers)
    return [found[number][0] for number in range(count)]


def _leads(file: Path) -> bool:
    """Whether a file is a model, or its first part. Accompanying files and later parts are not."""
    metadata = read_header(str(file)).metadata
    return (
        metadata.get("general.type") not in COMPANION_TYPES
        and metadata.get("general.architecture") not in COMPANION_ARCHITECTURES
        and (SPLIT.fullmatch(file.name) is not None or metadata.get("split.no", 0) == 0)
    )


def _find_shards(file: Path) -> list[str]:
    match = SPLIT.fullmatch(file.name)
    if match is None:
        return [str(file)]
    stem, _, count, suffix = match.groups()
    wanted = [file.with_name(f"{stem}-{i:05}-of-{count}{suffix or ''}") for i in range(1, int(count) + 1)]
    missing = [part.name for part in wanted if not part.is_file()]
    if missing:
        raise CheckpointError(
            f"{file} is one part of {int(count)}, and {len(missing)} of them are not in {file.parent}: "
            f"{join_names(missing)}",
            "complete the download",
        )
    return [str(part) for part in wanted]


def _gguf_files(folder: Path) -> Iterable[Path]:
    for file in sorted(folder.iterdir()):
        if file.is_file():
            with open_regular(file) as stream:
                if stream.read(len(MAGIC)) == MAGIC:
                    yield file

"""For loaders: the files of a folder that belong to the model, of one or of many with an index."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dovetail.api.errors import CheckpointError
from dovetail.api.text import quote_foreign, read_text

DOWNLOAD_AGAIN = "the file is damaged or its download did not finish: fetch it again"
INDEX = ".index.json"
"""After the name of the file that it stands for."""
SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")
MAX_INDEX, MAX_FILE_NAME = 2**25, 255
"""Most bytes of an index, and of a file's name."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model.

    Attributes:
        files: their names, in order.
        index: path of the index that lists them, or None.
    """

    files: Sequence[str]
    index: str | None = None


def select_files(folder: Path, names: Sequence[str], single: str, others: tuple[str, ...]) -> ModelFiles:
    """The files that belong to the model: those of the index; else a complete set of numbered shards; else the file
    with the usual name; else all except those that usually accompany a model.

    Args:
        names: of the files in the folder that the loader reads.
        single: the usual name of a file that has the whole model, such as ``model.bin``. An index has the name
            of a file with the same ending, and ``.index.json``.
        others: beginnings, in lower case, of names of files that hold the same weights under other names, or no weights
            of the model.

    Raises:
        CheckpointError: one of the files is missing, or an index is malformed.
    """
    customary = single + INDEX
    for index in sorted(
        folder.glob(f"*{Path(single).suffix}{INDEX}"), key=lambda file: (file.name != customary, file.name)
    ):
        wanted = sorted(set(read_index(index).values()))
        if set(wanted) & set(names):  # otherwise it speaks of other files
            return ModelFiles(_check_present(folder, wanted, f"as {index} lists them"), str(index))
    own = [name for name in sorted(names) if not name.lower().startswith(others)] or sorted(names)
    if shard := next((m for m in map(SHARD.fullmatch, own) if m), None):
        stem, _, count, suffix = shard.groups()
        # Names with an absurd count of shards are not trusted with a list of that length.
        if 0 < int(count) <= 10_000:
            wanted = [f"{stem}-{i:0{len(count)}}-of-{count}{suffix}" for i in range(1, int(count) + 1)]
            return ModelFiles(_check_present(folder, wanted, f"since {shard[0]} is one of {int(count)}"))
    usual = next((name for name in own if name.lower() == single), None)
    return ModelFiles([usual] if usual else own)


def read_index(index: Path) -> Mapping[str, str]:
    """Read an index: name of each tensor → name of its file.

    Raises:
        CheckpointError: it is not an index, or names files in other folders.
    """
    try:
        found: Mapping[str, str] = json.loads(read_text(index, MAX_INDEX))["weight_map"]
        listed = list(found.values())
    except OSError as error:
        raise CheckpointError(f"cannot read {index} ({error.strerror})", DOWNLOAD_AGAIN) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{index} is not an index: wanted a JSON object with a weight_map", DOWNLOAD_AGAIN
        ) from None
    for file in listed:
        if not isinstance(file, str) or not _is_plain_name(file):
            raise CheckpointError(
                f"{index} lists the file {quote_foreign(file)}, wanted names in its own folder", DOWNLOAD_AGAIN
            )
    return found


def _is_plain_name(name: str) -> bool:
    """Whether a name can only mean a file of its own folder."""
    return (
        Path(name).name == name
        and name.isprintable()
        and name not in ("", ".", "..")
        and not set(name) & {"/", "\\", ":"}
        and len(name.encode()) <= MAX_FILE_NAME
    )


def _check_present(folder: Path, wanted: list[str], why: str) -> list[str]:
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"wanted {len(wanted)} files in {folder} {why}, found {len(wanted) - len(missing)}; "
            f"missing: {', '.join(missing[:8])}{' …' if len(missing) > 8 else ''}",
            "complete the download",
        )
    return wanted

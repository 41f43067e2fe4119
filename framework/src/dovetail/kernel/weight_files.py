"""Finds the files of a folder that a loader reads: by their names, and by their first bytes."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from pathlib import Path

from dovetail.api.cards import LoaderCard
from dovetail.api.errors import CheckpointError

POINTER = b"version https://git-lfs"
"""The beginning of a Git LFS pointer, which replaces a large file that was not fetched."""


class WeightFiles:
    """The files of a model reference.

    Args:
        path: a folder, or one file.
        cards: of all loaders. A file with the signature of one loader belongs to no other, whatever its name.

    Attributes:
        folder: where the files are.
        names: of all files there, or of the one file.

    Raises:
        CheckpointError: the folder cannot be read.
    """

    def __init__(self, path: str | Path, cards: Iterable[LoaderCard]) -> None:
        where = Path(path)
        self.alone = where.is_file()
        self.folder = where.parent if self.alone else where
        try:
            self.names = [where.name] if self.alone else sorted(p.name for p in where.iterdir() if p.is_file())
        except OSError as error:
            raise CheckpointError(f"cannot read {path} ({error.strerror})", "give a folder or a weight file") from None
        self._signatures = {signature.encode("latin-1") for card in cards for signature in card.signatures}
        self._beginnings: dict[str, bytes] = {}

    def of(self, card: LoaderCard) -> tuple[str, ...]:
        """Names of the files that a loader reads, in order: those that match its patterns in any case, or else those
        that begin with one of its signatures.
        """
        own = {signature.encode("latin-1") for signature in card.signatures}
        named = [n for n in self.names if matches(n, card.recognises) and not self._begins(n, self._signatures - own)]
        return tuple(named or [n for n in self.names if self._begins(n, own)])

    def paths(self, card: LoaderCard) -> tuple[str, ...]:
        """The same files as full paths.

        Raises:
            CheckpointError: one of them was not fetched.
        """
        names = self.of(card)
        for name in names:
            if self._begins(name, {POINTER}):
                raise CheckpointError(
                    f"{self.folder / name} is a pointer of Git LFS, wanted the file that it stands for",
                    "fetch it with git lfs pull, or download it",
                )
        return tuple(str(self.folder / name) for name in names)

    def _begins(self, name: str, signatures: Iterable[bytes]) -> bool:
        wanted = tuple(signatures)
        if not wanted:
            return False
        if name not in self._beginnings:
            try:
                with open(self.folder / name, "rb") as file:
                    self._beginnings[name] = file.read(max(map(len, (POINTER, *self._signatures))))
            except OSError:  # the loader reports errors of the files that it reads
                self._beginnings[name] = b""
        return self._beginnings[name].startswith(wanted)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file's name matches one of the patterns, in upper or lower case."""
    return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)

"""Folders that other users of the machine cannot open, for what the processes of one server share."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "dovetail-"
ROOT_GROUP = 0


def create_private_folders(max_bytes: int) -> Iterator[Path]:
    """Create folders of mode 0700, one in each place that suits, as the caller asks for further ones.

    Who could replace a folder could connect to its processes, or have them connect to itself. So neither the folder nor
    one above it may be another user's, or one in which others may rename what is not theirs.

    Args:
        max_bytes: length of the longest path. Addresses of unix sockets are short.
    """
    for place in _places():
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place)) if _is_safe(place) else None
        except OSError:  # it does not exist, or nothing can be written there
            continue
        if folder is None:
            continue
        if len(os.fsencode(folder)) <= max_bytes and is_private(folder):
            yield folder
        else:
            with contextlib.suppress(OSError):
                folder.rmdir()


def is_private(folder: Path) -> bool:
    """Whether a folder is this user's, and nobody else may open it. Some file systems keep no permissions."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def describe_places() -> str:
    """The places that are tried, for an error."""
    return ", ".join(map(str, _places()))


def _places() -> list[Path]:
    """Where temporary folders may be, without links. The folder for them may have a long path, and is not always on a
    disk of this machine.
    """
    places = []
    with contextlib.suppress(OSError):  # there is none
        places.append(tempfile.gettempdir())
    places += ["/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"]
    return list(dict.fromkeys(Path(place).resolve() for place in places if os.path.isabs(place)))


def _is_safe(place: Path) -> bool:
    """Whether only root and this user can replace what this user has there."""
    trusted = {0, os.geteuid(), os.stat("/").st_uid}  # root has another number in some containers
    for folder in (place, *place.parents):
        found = folder.lstat()
        by_group = found.st_mode & stat.S_IWGRP and found.st_gid != ROOT_GROUP
        shared = found.st_mode & stat.S_IWOTH or by_group
        if found.st_uid not in trusted or (shared and not found.st_mode & stat.S_ISVTX):
            return False
    return True

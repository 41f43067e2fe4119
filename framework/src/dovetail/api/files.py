"""Opens files that somebody else made or named."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(file: str | Path) -> BinaryIO:
    """Open a regular file for reading. A pipe, which would keep its reader waiting, and a device are refused.

    Raises:
        OSError: it cannot be opened, or is something else; ``strerror`` says what.
    """
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is no regular file", str(file))

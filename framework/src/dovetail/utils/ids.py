"""Random ids for requests."""

from __future__ import annotations

import uuid


def random_uuid() -> str:
    """A random id of 32 hexadecimal digits."""
    return uuid.uuid4().hex

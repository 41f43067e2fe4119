"""Names for requests."""

from __future__ import annotations

import uuid


def random_uuid() -> str:
    """32 hexadecimal digits that nobody has had before."""
    return uuid.uuid4().hex

from __future__ import annotations

from ..kernel.conftest import site

__all__ = ["site"]

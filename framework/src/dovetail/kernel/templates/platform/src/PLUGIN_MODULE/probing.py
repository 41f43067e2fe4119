"""Whether the device is here. Asked before anything is chosen, so this module must not import torch at its top."""

from __future__ import annotations

import os


def objection() -> str | None:
    """Why the device is not to be had on this machine, or None if it is."""
    if not hasattr(os, "sysconf"):
        return "this system does not say how much memory it has"
    return None

"""Giving back what engines that are gone have used."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dovetail.nn.platform import Platform

_platforms: dict[type, Platform] = {}


def remember_platform(platform: Platform) -> None:
    """An engine of this process runs on it."""
    _platforms[type(platform)] = platform


def cleanup_dist_env_and_memory(shutdown_ray: bool = False) -> None:
    """Collect engines that nobody holds any more (``del llm``), and give their memory back to the device and the system.

    Args:
        shutdown_ray: there is no Ray to shut down.
    """
    gc.collect()
    for platform in _platforms.values():
        platform.release()


def destroy_model_parallel() -> None:
    """Leave the groups of processes that run a model together. An engine is one process, so there are none."""


def destroy_distributed_environment() -> None:
    """The same for the groups' own environment."""

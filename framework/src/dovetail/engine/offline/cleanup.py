"""Frees the memory of engines that are no longer used."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dovetail.nn.platform import Platform

_platforms: dict[type, Platform] = {}


def remember_platform(platform: Platform) -> None:
    """Record that an engine of this process runs on the platform."""
    _platforms[type(platform)] = platform


def cleanup_dist_env_and_memory(shutdown_ray: bool = False) -> None:
    """Collect engines without references (``del llm``), and return their memory to the device and the system.

    Args:
        shutdown_ray: has no effect, because Ray is not used.
    """
    gc.collect()
    for platform in _platforms.values():
        platform.release()


def destroy_model_parallel() -> None:
    """Does nothing: an engine is one process, so there are no process groups."""


def destroy_distributed_environment() -> None:
    """Does nothing, likewise."""

"""What images a request may have, and from where."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from dovetail.api.errors import UsageError
from dovetail.engine.args import EngineArgs

CACHE_VARIABLE = "DOVETAIL_MM_INPUT_CACHE_GIB"
CACHE_GIB = 4.0
MAX_IMAGES = 16
"""Of a prompt, unless ``--limit-mm-per-prompt`` says."""


@dataclass(frozen=True, slots=True)
class ImageRules:
    """
    Attributes:
        max_images: of a prompt.
        max_bytes: of an encoded image.
        max_pixels: of a decoded one.
        folder: files below it may be read, its links resolved; None for none.
        domains: hosts that images may be fetched from, in lower case.
    """

    max_images: int
    max_bytes: int
    max_pixels: int
    folder: Path | None
    domains: frozenset[str]

    @classmethod
    def from_args(cls, args: EngineArgs) -> ImageRules:
        """
        Raises:
            UsageError: ``--allowed-local-media-path`` is no folder.
        """
        folder = None
        if args.allowed_local_media_path:
            folder = Path(args.allowed_local_media_path).expanduser().resolve()
            if not folder.is_dir():
                raise UsageError(
                    f"--allowed-local-media-path is {args.allowed_local_media_path}, wanted a folder",
                    "name the folder that requests may read images from, or leave it out",
                )
        return cls(
            args.limit_mm_per_prompt.get("image", MAX_IMAGES),
            args.max_image_bytes,
            args.max_image_pixels,
            folder,
            frozenset(domain.lower().rstrip(".") for domain in args.allowed_media_domains),
        )


def read_cache_bytes() -> int:
    """The size of the input cache, in bytes: ``DOVETAIL_MM_INPUT_CACHE_GIB``.

    Raises:
        UsageError: the variable holds no such size.
    """
    given = os.environ.get(CACHE_VARIABLE, "").strip()
    try:
        size = float(given) if given else CACHE_GIB
    except ValueError:
        size = math.nan
    if not 0 <= size < 2**20:
        raise UsageError(f"{CACHE_VARIABLE} is {given!r}, wanted a number of GiB", "set it to 4, or to 0 for no cache")
    return int(size * 2**30)

"""Pixels: what image processors of models share. Plugins import it where a picture is processed; it needs Pillow and
numpy, and no torch.

Letters: H, W height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

Factor = Annotated[float, Field(gt=0, le=2.0**27)]
Length = Annotated[int, Field(gt=0, le=16384)]


class Preprocessing(BaseModel):
    """Keys of ``preprocessor_config.json`` that most models have. A model's class sets its defaults, and adds its own."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    do_resize: bool = True
    resample: Annotated[int, Field(ge=0, le=5)] = 3
    """Pillow's number of a filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming."""
    do_rescale: bool = True
    rescale_factor: Factor = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[Factor, Factor, Factor] = (0.5, 0.5, 0.5)


def resize(image: Any, size: tuple[int, int], resample: int) -> Any:
    """A ``PIL.Image.Image`` of another size (width, height). One of that size is returned as it is."""
    return image if image.size == size else image.resize(size, resample)


def crop_center(image: Any, size: tuple[int, int]) -> Any:
    """The middle of a picture, which has at least that width and height."""
    left, top = ((have - want) // 2 for have, want in zip(image.size, size, strict=True))
    return image.crop((left, top, left + size[0], top + size[1]))


def read_pixels(image: Any, options: Preprocessing) -> Any:
    """The pixels of an RGB picture, float32 ``[3, H, W]``, rescaled and normalized."""
    pixels = np.asarray(image, np.uint8).astype(np.float64)  # [H, W, 3]
    if options.do_rescale:
        pixels = pixels * options.rescale_factor
    if options.do_normalize:
        pixels = (pixels - np.asarray(options.image_mean)) / np.asarray(options.image_std)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)


def read_length(value: Any, *names: str) -> int | Sequence[int]:
    """A size of ``preprocessor_config.json``: of several forms, the first of ``names`` that an object has, or a number.

    Raises:
        ValueError: it has none of them.
    """
    if isinstance(value, Mapping):
        value = next((value[name] for name in names if name in value), None)
    if type(value) is not int or not 0 < value <= 16384:
        raise ValueError(f"wanted {' or '.join(names)}, a number of pixels")
    return value

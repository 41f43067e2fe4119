"""Rotary positions of prompts with images, for models whose positions have axes (multimodal rotary embedding; Bai et al.,
2025): time, height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dovetail.engine.messages import ImageInput


def find_rope_positions(length: int, images: Sequence[ImageInput]) -> tuple[np.ndarray, int] | None:
    """The rotary positions of a prompt, int64 ``[3, P]``, and what tokens after it add to theirs; None if they are
    counted like those of a text.

    Args:
        length: P, in tokens.
        images: in order.
    """
    if all(image.grid is None for image in images):
        return None
    places = np.arange(length, dtype=np.int64)
    found = np.stack([places, places, places])
    shift = 0  # by which positions are behind their tokens
    for image in images:
        if image.grid is None:
            continue
        rows = np.concatenate([np.arange(image.start + start, image.start + end) for start, end in image.rows])
        first = int(rows[0]) - shift
        grid = np.indices(image.grid).reshape(3, -1)
        shift += len(rows) - max(image.grid)
        found[:, rows[0] :] -= len(rows) - max(image.grid)
        found[:, rows] = first + grid
    return found, -shift

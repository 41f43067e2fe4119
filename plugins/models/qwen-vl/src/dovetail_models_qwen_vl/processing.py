"""How Qwen2.5-VL's images are prepared: resized to whole patches, and put in the order of the tower's windows.

Letters: W windows, S patches of a window, P values of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, model_validator

from dovetail.api import ConfigError, ImageProcessor, ModelConfig, ProcessedImage, RequestError
from dovetail.pixels import Factor, Preprocessing, read_pixels, resize
from dovetail_models_qwen_vl.config import MAX_IMAGE_TOKENS, Qwen2_5VLConfig

MAX_RATIO = 200
"""Of the longer side to the shorter one."""
Pixels = Annotated[int, Field(gt=0)]


class Qwen2VLPreprocessing(Preprocessing):
    """Keys of Qwen2VLImageProcessor in transformers, with their defaults."""

    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[Factor, Factor, Factor] = (0.26862954, 0.26130258, 0.27577711)
    min_pixels: Pixels = 56 * 56
    max_pixels: Pixels = 28 * 28 * 1280
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2

    @model_validator(mode="before")
    @classmethod
    def _read_size(cls, data: Any) -> Any:
        """``size`` has the bounds in newer files, under the names of edges."""
        if isinstance(data, dict) and isinstance(size := data.get("size"), Mapping):
            bounds = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
            data = {**{ours: size[theirs] for ours, theirs in bounds.items() if theirs in size}, **data}
        return data


def fit(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The size, in multiples of ``factor``, that is nearest to a picture's within the bounds of its area."""
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > max_pixels:
        ratio = math.sqrt(height * width / max_pixels)
        rows, columns = (max(factor, math.floor(side / ratio / factor) * factor) for side in (height, width))
    elif rows * columns < min_pixels:
        ratio = math.sqrt(min_pixels / (height * width))
        rows, columns = (math.ceil(side * ratio / factor) * factor for side in (height, width))
    return rows, columns


class Qwen2VLImageProcessor(ImageProcessor):
    keys = frozenset(Qwen2VLPreprocessing.model_fields) | {"size"}

    def __init__(self, config: ModelConfig, preprocessing: Mapping[str, Any]) -> None:
        assert isinstance(config, Qwen2_5VLConfig)
        try:
            self.options = options = Qwen2VLPreprocessing(**preprocessing)
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(
                f"preprocessor_config.json cannot be read: {'.'.join(map(str, first['loc']))}: {first['msg']}",
                "correct the file, or give other values with --mm-processor-kwargs",
            ) from None
        tower = config.vision_config
        for name, wanted in (
            ("patch_size", tower.patch_size),
            ("temporal_patch_size", tower.temporal_patch_size),
            ("merge_size", tower.spatial_merge_size),
        ):
            if (found := getattr(options, name)) != wanted:
                raise ConfigError(
                    f"{name} in preprocessor_config.json is {found}, and the tower's is {wanted}", "correct the file"
                )
        if not options.do_resize:
            raise ConfigError("do_resize is false in preprocessor_config.json, wanted true", "correct the file")
        self.factor = options.patch_size * options.merge_size
        self.max_pixels = min(options.max_pixels, MAX_IMAGE_TOKENS * self.factor**2)
        self.window = tower.window_units
        self.placeholder = config.image_token_id
        self.placeholder_text = "<|vision_start|><|image_pad|><|vision_end|>"

    def process(self, image: Any) -> ProcessedImage:
        short, long = sorted(image.size)
        if long > MAX_RATIO * short:
            raise RequestError(
                f"an image has {image.width} x {image.height} pixels, and its longer side may be at most {MAX_RATIO} times the other",
                "cut it into parts",
                param="messages",
            )
        options, merge, patch = self.options, self.options.merge_size, self.options.patch_size
        height, width = fit(image.height, image.width, self.factor, options.min_pixels, self.max_pixels)
        pixels = read_pixels(resize(image, (width, height), options.resample), options)
        rows, columns = height // self.factor, width // self.factor
        # By merged patch: [rows, columns, merge * merge, P], and each patch's line and place in it.
        patches = pixels.reshape(3, rows, merge, patch, columns, merge, patch).transpose(1, 4, 2, 5, 0, 3, 6)
        patches = patches.reshape(rows, columns, merge**2, 3, 1, patch, patch)
        patches = np.repeat(patches, options.temporal_patch_size, axis=4).reshape(rows, columns, merge**2, -1)
        lines_and_places = np.indices((rows * merge, columns * merge)).reshape(2, rows, merge, columns, merge)
        places = lines_and_places.transpose(1, 3, 2, 4, 0).reshape(rows, columns, merge**2, 2)
        windows = (-(-rows // self.window), -(-columns // self.window))
        count = rows * columns
        order = self._by_window(np.arange(count).reshape(rows, columns), windows)  # [W, window * window]
        seen = self._by_window(np.ones((rows, columns), bool), windows)
        back = np.empty(count, np.int64)
        back[order[seen]] = np.flatnonzero(seen)
        arrays = {
            "patches": self._by_window(patches, windows).reshape(len(seen), -1, patches.shape[-1]),  # [W, S, P]
            "places": self._by_window(places, windows).reshape(len(seen), -1, 2),  # [W, S, 2]
            "seen": np.repeat(seen, merge**2, axis=1),  # [W, S]
            "back": back,
        }
        tokens = (self.placeholder,) * count
        return ProcessedImage(tokens, [(0, count)], arrays, grid=(1, rows, columns))

    def _by_window(self, values: Any, windows: tuple[int, int]) -> Any:
        """Values of merged patches ``[rows, columns, …]`` by window, ``[W, window * window, …]``; zeros where a window
        reaches past the picture.
        """
        size, (down, across), rest = self.window, windows, values.shape[2:]
        padding = [(0, down * size - values.shape[0]), (0, across * size - values.shape[1]), *((0, 0) for _ in rest)]
        whole = np.pad(values, padding).reshape(down, size, across, size, *rest)
        return np.ascontiguousarray(whole.swapaxes(1, 2).reshape(down * across, size * size, *rest))

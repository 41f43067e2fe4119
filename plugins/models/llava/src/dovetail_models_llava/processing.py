"""How LLaVA's images are prepared: as CLIP's, to squares of one size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator

from dovetail.api import ConfigError, ImageProcessor, ModelConfig, ProcessedImage
from dovetail.pixels import Factor, Preprocessing, crop_center, read_length, read_pixels, resize
from dovetail_models_llava.config import LlavaConfig


class ClipPreprocessing(Preprocessing):
    """Keys of CLIPImageProcessor in transformers, with their defaults."""

    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[Factor, Factor, Factor] = (0.26862954, 0.26130258, 0.27577711)
    size: int = 224
    """Of the shorter edge."""
    do_center_crop: bool = True
    crop_size: int = Field(default=224)

    @field_validator("size", mode="before")
    @classmethod
    def _read_size(cls, value: Any) -> Any:
        return read_length(value, "shortest_edge")

    @field_validator("crop_size", mode="before")
    @classmethod
    def _read_crop_size(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("height") != value.get("width"):
            raise ValueError("wanted equal height and width")
        return read_length(value, "height")


class LlavaImageProcessor(ImageProcessor):
    keys = frozenset(ClipPreprocessing.model_fields)

    def __init__(self, config: ModelConfig, preprocessing: Mapping[str, Any]) -> None:
        assert isinstance(config, LlavaConfig)
        try:
            self.options = options = ClipPreprocessing(**preprocessing)
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(
                f"preprocessor_config.json cannot be read: {'.'.join(map(str, first['loc']))}: {first['msg']}",
                "correct the file, or give other values with --mm-processor-kwargs",
            ) from None
        side = config.vision_config.image_size
        if not (options.do_resize and options.do_center_crop and options.size >= options.crop_size == side):
            raise ConfigError(
                f"images are resized to {options.size} and cropped to {options.crop_size}, and the tower takes {side} pixels",
                "correct do_resize, size, do_center_crop and crop_size in preprocessor_config.json",
            )
        self.placeholder = config.image_token_index
        self._tokens = (self.placeholder,) * config.image_tokens

    def process(self, image: Any) -> ProcessedImage:
        options = self.options
        short, long = sorted(image.size)
        other = options.size * long // short
        size = (options.size, other) if image.width <= image.height else (other, options.size)
        image = crop_center(resize(image, size, options.resample), (options.crop_size, options.crop_size))
        rows = [(0, len(self._tokens))]
        return ProcessedImage(self._tokens, rows, {"pixels": read_pixels(image, options)})

"""The kit on the card, and what the configuration and the processor refuse."""

from __future__ import annotations

from typing import Any

import dovetail_models_qwen_vl
import numpy as np
import pytest
from dovetail_models_qwen_vl import dovetail_register_models
from dovetail_models_qwen_vl.processing import Qwen2VLImageProcessor
from PIL import Image

from dovetail.api import ConfigError, RequestError
from dovetail.testing import build_model, check_images, check_model, check_registration
from dovetail.testing.harness import parse_config

(CARD,) = dovetail_register_models()
TOWER: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_heads": 2,
    "patch_size": 4,
    "window_size": 16,
    "out_hidden_size": 48,
    "fullatt_block_indexes": [1],
}
TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 3]},
    "image_token_id": 90,
    "vision_config": TOWER,
}
SIZES: dict[str, Any] = {"patch_size": 4, "min_pixels": 256, "max_pixels": 1600}


def test_registration() -> None:
    check_registration(dovetail_models_qwen_vl)


def test_every_claim() -> None:
    check_model(CARD, TINY, {**TINY, "tie_word_embeddings": True})


def test_images_of_the_kit() -> None:
    check_images(CARD, TINY, SIZES)
    check_images(CARD, {**TINY, "vision_config": {**TOWER, "window_size": 27}}, SIZES)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image_token_id": 97}, "image_token_id 97 is not below vocab_size 97"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 4]}}, "mrope_section is .*, wanted 6 frequencies"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"use_sliding_window": True, "sliding_window": 9}, "sliding_attention"),
        ({"vision_config": {**TOWER, "out_hidden_size": 40}}, "out_hidden_size of the tower is 40, and hidden_size 48"),
        ({"vision_config": {**TOWER, "num_heads": 3}}, "not a multiple of 4 times num_heads 3"),
        ({"vision_config": {**TOWER, "window_size": 7}}, "window_size 7 is below 8"),
        ({"vision_config": {**TOWER, "rope_parameters": {"rope_theta": 5.0}}}, "only the base 10000"),
    ],
)
def test_what_is_not_supported_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **changes}, {})


def processor(**preprocessing: Any) -> Qwen2VLImageProcessor:
    return Qwen2VLImageProcessor(parse_config(CARD, TINY), {**SIZES, **preprocessing})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patch_size": 5}, "patch_size in preprocessor_config.json is 5, and the tower's is 4"),
        ({"merge_size": 3}, "merge_size in preprocessor_config.json is 3"),
        ({"do_resize": False}, "do_resize is false"),
        ({"max_pixels": 0}, "max_pixels"),
    ],
)
def test_what_does_not_fit_the_tower_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        processor(**changes)


def test_a_picture_that_is_a_line_is_refused() -> None:
    with pytest.raises(RequestError, match="at most 200 times"):
        processor().process(Image.new("RGB", (1000, 3)))


@pytest.mark.parametrize("size", [(24, 24), (57, 40), (33, 61), (200, 25), (7, 9)])
@pytest.mark.parametrize(
    "options", [{}, {"min_pixels": 800, "resample": 2}, {"max_pixels": 500, "do_normalize": False}]
)
def test_patches_are_those_of_the_original(size: tuple[int, int], options: dict[str, Any]) -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(values)
    original = module.Qwen2VLImageProcessorPil(**{**SIZES, **options})(image, return_tensors="np")
    found = processor(**options).process(image)
    _, rows, columns = original["image_grid_thw"][0]
    assert found.grid == (1, rows // 2, columns // 2)
    patches = found.arrays["patches"].reshape(-1, 4, found.arrays["patches"].shape[-1])[found.arrays["back"]]
    np.testing.assert_allclose(patches.reshape(rows * columns, -1), original["pixel_values"], rtol=1e-5, atol=1e-5)

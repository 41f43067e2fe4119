"""The kit on the card, and what the configuration and the processor refuse."""

from __future__ import annotations

from typing import Any

import dovetail_models_llava
import numpy as np
import pytest
from dovetail_models_llava import dovetail_register_models
from dovetail_models_llava.processing import LlavaImageProcessor
from PIL import Image

from dovetail.api import ConfigError
from dovetail.testing import build_model, check_images, check_model, check_registration
from dovetail.testing.harness import parse_config

(CARD,) = dovetail_register_models()
TEXT: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 24,
    "patch_size": 6,
}
TINY: dict[str, Any] = {"text_config": TEXT, "vision_config": TOWER, "image_token_index": 90}
SIZES: dict[str, Any] = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}


def test_registration() -> None:
    check_registration(dovetail_models_llava)


def test_every_claim() -> None:
    check_model(CARD, TINY)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image_token_index": 97}, "image_token_index 97 is not below vocab_size 97"),
        ({"vision_feature_layer": -5}, "vision_feature_layer is -5, wanted layers of a tower of 3"),
        ({"vision_feature_layer": [1, 4]}, "vision_feature_layer is .*, wanted layers of a tower of 3"),
        ({"vision_feature_layer": []}, "names no layer"),
        ({"vision_config": {**TOWER, "model_type": "siglip_vision_model"}}, "vision_config.model_type"),
        ({"vision_config": {**TOWER, "num_attention_heads": 5}}, "not a multiple of num_attention_heads 5"),
        ({"vision_config": {**TOWER, "patch_size": 25}}, "image_size 24 is below patch_size 25"),
        ({"text_config": {**TEXT, "model_type": "qwen2"}}, "the text model is of the type 'qwen2'"),
        ({"text_config": {**TEXT, "hidden_act": "gelu"}}, "hidden_act 'gelu' is not supported"),
    ],
)
def test_what_is_not_supported_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **changes}, {})


def test_published_sizes_are_known() -> None:
    """The files of LLaVA 1.5 leave out the sizes of its parts."""
    config: Any = parse_config(CARD, {"text_config": {"vocab_size": 32064}, "image_token_index": 32000})
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (4096, 32, 11008)
    assert config.image_tokens == 576


def processor(**preprocessing: Any) -> LlavaImageProcessor:
    return LlavaImageProcessor(parse_config(CARD, TINY), {**SIZES, **preprocessing})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"crop_size": 30}, "resized to 24 and cropped to 30, and the tower takes 24"),
        ({"do_resize": False}, "correct do_resize"),
        ({"crop_size": {"height": 24, "width": 30}}, "crop_size: .*wanted equal height and width"),
        ({"size": {"longest_edge": 24}}, "size: .*wanted shortest_edge"),
        ({"image_std": (0, 1, 1)}, "image_std"),
    ],
)
def test_sizes_that_do_not_fit_the_tower_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        processor(**changes)


@pytest.mark.parametrize("size", [(24, 24), (57, 40), (33, 61), (200, 25), (7, 9)])
@pytest.mark.parametrize("options", [{}, {"resample": 2, "do_normalize": False}, {"do_rescale": False}])
def test_pixels_are_those_of_the_original(size: tuple[int, int], options: dict[str, Any]) -> None:
    module = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(values)
    original = module.CLIPImageProcessorPil(**SIZES, **options)(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(processor(**options).process(image).arrays["pixels"], original, rtol=1e-5, atol=1e-5)


def test_images_of_the_kit() -> None:
    check_images(CARD, TINY, SIZES)
    check_images(CARD, {**TINY, "vision_feature_layer": [1, 2], "vision_feature_select_strategy": "full"}, SIZES)

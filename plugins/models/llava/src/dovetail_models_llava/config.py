"""The configuration of LLaVA, read from ``config.json``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dovetail.api import Activation, DecoderConfig, Epsilon, HeadCount, LayerCount, Size

PUBLISHED_TOWER = {
    "intermediate_size": 4096,
    "hidden_size": 1024,
    "patch_size": 14,
    "image_size": 336,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
"""The tower of files without ``vision_config``."""
LLAMA_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
"""Sizes that published files leave out of ``text_config``."""


class ClipConfig(BaseModel):
    """Keys of CLIPVisionConfig in transformers, with their defaults."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    model_type: Literal["clip_vision_model"] = "clip_vision_model"
    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: LayerCount = 12
    num_attention_heads: HeadCount = 12
    num_channels: Literal[3] = 3
    image_size: Annotated[int, Field(gt=0, le=4096)] = 224
    patch_size: Annotated[int, Field(gt=0, le=4096)] = 32
    hidden_act: Activation = "gelu_quick"
    layer_norm_eps: Epsilon = 1e-5

    @model_validator(mode="after")
    def _check(self) -> ClipConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.image_size < self.patch_size:
            raise ValueError(f"image_size {self.image_size} is below patch_size {self.patch_size}")
        return self

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


class LlavaConfig(DecoderConfig):
    """Keys of LlavaConfig and LlamaConfig in transformers, with their defaults."""

    partial_rotary: ClassVar[bool] = False
    one_rope: ClassVar[bool] = True
    supported_layer_types = ("full_attention",)

    rms_norm_eps: Epsilon = 1e-6
    attention_bias: bool = False
    mlp_bias: bool = False
    vision_config: ClipConfig
    image_token_index: int = Field(default=32000, ge=0)
    projector_hidden_act: Activation = "gelu"
    multimodal_projector_bias: bool = True
    vision_feature_layer: int | list[int] = -2
    vision_feature_select_strategy: Literal["default", "full"] = "default"

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        if (kind := data.get("model_type")) not in (None, "llava", "llama"):
            raise ValueError(f"the text model is of the type {kind!r}, which is not supported, only 'llama'")
        data.setdefault("vision_config", PUBLISHED_TOWER)
        if "image_token_id" in data:
            data.setdefault("image_token_index", data["image_token_id"])
        for key, value in LLAMA_DEFAULTS.items():
            data.setdefault(key, value)
        return super().prepare(data)

    @model_validator(mode="after")
    def _check_llava(self) -> LlavaConfig:
        if self.hidden_act != "silu":
            raise ValueError(f"hidden_act {self.hidden_act!r} is not supported, only silu")
        if self.image_token_index >= self.vocab_size:
            raise ValueError(f"image_token_index {self.image_token_index} is not below vocab_size {self.vocab_size}")
        if not self.feature_layers:
            raise ValueError("vision_feature_layer names no layer")
        depth = self.vision_config.num_hidden_layers
        if not all(0 <= layer <= depth for layer in self.feature_layers):
            raise ValueError(
                f"vision_feature_layer is {self.vision_feature_layer}, wanted layers of a tower of {depth}"
            )
        return self

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """How many layers of the tower have run where its hidden states are taken, one or several times."""
        given = self.vision_feature_layer
        depth = self.vision_config.num_hidden_layers + 1
        return tuple(n + depth if n < 0 else n for n in (given if isinstance(given, list) else [given]))

    @property
    def image_tokens(self) -> int:
        """Tokens of an image."""
        return self.vision_config.num_patches + (self.vision_feature_select_strategy == "full")

"""The configuration of Qwen2.5-VL, read from ``config.json``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dovetail.api import Activation, DecoderConfig, Epsilon, HeadCount, LayerCount, Positions, Size

MAX_IMAGE_TOKENS = 16384
"""Of one image: what the published ``max_pixels`` allows."""
TEXT_DEFAULTS = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
SECTIONS = (16, 24, 24)
Side = Annotated[int, Field(gt=0, le=4096)]


class TowerConfig(BaseModel):
    """Keys of Qwen2_5_VLVisionConfig in transformers, with their defaults."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    depth: LayerCount = 32
    hidden_size: Size = 3584
    hidden_act: Activation = "silu"
    intermediate_size: Size = 3420
    num_heads: HeadCount = 16
    in_channels: Annotated[int, Field(ge=3, le=3)] = 3
    patch_size: Side = 14
    spatial_merge_size: Annotated[int, Field(gt=0, le=16)] = 2
    temporal_patch_size: Annotated[int, Field(gt=0, le=16)] = 2
    window_size: Side = 112
    out_hidden_size: Size = 3584
    fullatt_block_indexes: Annotated[tuple[int, ...], Field(strict=False)] = (7, 15, 23, 31)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        rope = data.get("rope_parameters") if isinstance(data, dict) else None
        if not isinstance(rope, dict):
            return data
        if rope.get("rope_theta", 10000.0) != 10000.0 or rope.get("rope_type", "axial") not in ("axial", "default"):
            raise ValueError("rope_parameters of the tower are not supported, only the base 10000")
        return data

    @model_validator(mode="after")
    def _check(self) -> TowerConfig:
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 4:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of 4 times num_heads {self.num_heads}: "
                "rotary embeddings turn pairs by height, and as many by width"
            )
        if self.window_units < 1:
            raise ValueError(f"window_size {self.window_size} is below {self.patch_size * self.spatial_merge_size}")
        return self

    @property
    def window_units(self) -> int:
        """Merged patches along each side of a window."""
        return self.window_size // self.spatial_merge_size // self.patch_size


class Qwen2_5VLConfig(DecoderConfig):  # noqa: N801  # the version's number
    """Keys of Qwen2_5_VLConfig and Qwen2_5_VLTextConfig in transformers, with their defaults."""

    if_missing: ClassVar[dict[str, Any]] = {"num_key_value_heads": 8}
    partial_rotary: ClassVar[bool] = False
    one_rope: ClassVar[bool] = True
    supported_layer_types = ("full_attention",)
    rope_defaults: ClassVar[dict[str, Any]] = {"rope_theta": 1e6}

    max_position_embeddings: Positions = 32768
    rms_norm_eps: Epsilon = 1e-5
    vision_config: TowerConfig = TowerConfig()
    image_token_id: int = Field(default=151655, ge=0)
    video_token_id: int = Field(default=151656, ge=0)

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        for key, value in TEXT_DEFAULTS.items():
            data.setdefault(key, value)
        if data.get("use_sliding_window") is not True:
            data["use_sliding_window"] = False
        data = super().prepare(data)
        for kind, rope in data["rope"].items():
            if not rope.sections:
                data["rope"][kind] = rope.model_copy(update={"sections": SECTIONS})
        return data

    @model_validator(mode="after")
    def _check_qwen(self) -> Qwen2_5VLConfig:
        if self.hidden_act != "silu":
            raise ValueError(f"hidden_act {self.hidden_act!r} is not supported, only silu")
        sections = self.rope_for(0).sections
        if 2 * sum(sections) != self.head_dim:
            raise ValueError(f"mrope_section is {list(sections)}, wanted {self.head_dim // 2} frequencies in all")
        if self.image_token_id >= self.vocab_size:
            raise ValueError(f"image_token_id {self.image_token_id} is not below vocab_size {self.vocab_size}")
        if self.vision_config.out_hidden_size != self.hidden_size:
            raise ValueError(
                f"out_hidden_size of the tower is {self.vision_config.out_hidden_size}, and hidden_size {self.hidden_size}"
            )
        return self

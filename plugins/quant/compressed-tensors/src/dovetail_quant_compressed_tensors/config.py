"""The ``quantization_config`` of compressed-tensors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

Size = Annotated[int, Field(gt=0)]
Storage = Literal[
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "mxfp8-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
]
FLOATS: dict[str, tuple[int, int]] = {
    "mxfp8-quantized": (8, 32),
    "nvfp4-pack-quantized": (4, 16),
    "mxfp4-pack-quantized": (4, 32),
}
"""Storage → bits and groups that it always has."""


class Weights(BaseModel):
    """How the weights of a group of layers were quantized."""

    num_bits: Annotated[int, Field(ge=1, le=8)] = 8
    type: Literal["int", "float"] = "int"
    symmetric: bool = True
    strategy: Literal["tensor", "channel", "group", "tensor_group", "block"] | None = None
    """What has a scale of its own: the matrix, a row, a group of columns, a group within the matrix's, a block."""
    group_size: Literal[-1] | Size | None = None
    block_structure: tuple[Size, Size] | None = Field(default=None, strict=False)
    actorder: Literal["group", "weight", "static", "dynamic"] | bool | None = None
    """``group``: the columns of a group are not neighbours; ``weight_g_idx`` has the group of each."""

    @model_validator(mode="after")
    def _check_sizes(self) -> Weights:
        if self.scope in ("group", "tensor_group") and (self.group_size or 0) < 1:
            raise ValueError(
                f"strategy is {self.scope}, and group_size is {self.group_size}, wanted a number of columns"
            )
        if self.scope == "block" and self.block_structure is None:
            raise ValueError("strategy is block, and there is no block_structure")
        return self

    @property
    def scope(self) -> str:
        """The strategy, also where the file leaves it to the size of groups."""
        if self.strategy is not None:
            return self.strategy
        return {None: "tensor", -1: "channel"}.get(self.group_size, "group")

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns that share a scale; 0 for all of them."""
        groups = (1, self.group_size or 0)
        blocks = {"tensor": (0, 0), "channel": (1, 0), "block": self.block_structure or (0, 0)}
        return blocks.get(self.scope, groups)

    @property
    def ordered(self) -> bool:
        return self.actorder in ("group", True)


class Group(BaseModel):
    """A group of layers."""

    targets: tuple[str, ...] = Field(strict=False)
    """Classes of layers (``Linear``), names, or regular expressions after ``re:``."""
    weights: Weights | None = None
    """None where only activations were quantized, and so the weights are in full precision."""
    format: Storage | None = None
    """Where groups differ."""


class CompressedTensorsConfig(BaseModel):
    """Keys of ``quantization_config`` that decide how tensors are read."""

    format: Storage | Literal["mixed-precision"]
    config_groups: dict[str, Group]
    ignore: tuple[str, ...] = Field(default=(), strict=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_changes_tensors(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        sparse = data.get("sparsity_config")
        structure = sparse.get("format", "dense") if isinstance(sparse, dict) else "dense"
        if structure != "dense":
            raise ValueError(
                f"sparsity_config has the format {structure!r}, which is not supported, only dense weights"
            )
        if data.get("transform_config"):
            raise ValueError("transform_config is not supported: activations would have to be transformed")
        return {**data, "ignore": data.get("ignore") or ()}

    @field_validator("config_groups")
    @classmethod
    def _check_groups(cls, groups: dict[str, Group]) -> dict[str, Group]:
        if not groups:
            raise ValueError("there is none")
        return groups

    @model_validator(mode="after")
    def _check_storage(self) -> CompressedTensorsConfig:
        for name, group in self.config_groups.items():
            if group.weights is None:
                continue
            storage, weights = self.storage(group), group.weights
            found = f"config_groups.{name} has weights of {weights.num_bits} bits of the type {weights.type}"
            if storage is None:
                raise ValueError(f"config_groups.{name} has no format, and the format of all is mixed-precision")
            bits, size = FLOATS.get(storage, (8, weights.group_size))
            floating = storage in FLOATS or storage == "float-quantized"
            integers = storage in ("pack-quantized", "int-quantized")
            wanted = "float" if floating else "int" if integers else weights.type
            if weights.type != wanted or (
                weights.type == "float" and (weights.num_bits, weights.group_size) != (bits, size)
            ):
                raise ValueError(f"{found} in groups of {weights.group_size}, which {storage} does not have")
            if weights.type == "float" and not weights.symmetric:
                raise ValueError(f"{found} with zero-points, which is not supported")
            if storage != "pack-quantized" and weights.ordered:
                raise ValueError(f"{found} in another order (actorder), which is only supported in pack-quantized")
            if not weights.symmetric and weights.scope not in ("channel", "group"):
                raise ValueError(
                    f"{found} with zero-points by {weights.scope}, which is only supported by channel or group"
                )
        return self

    def storage(self, group: Group) -> Storage | None:
        """How the weights of a group are stored."""
        return group.format or (None if self.format == "mixed-precision" else self.format)

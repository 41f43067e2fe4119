"""The weights of compressed-tensors, each as its group of layers is stored.

Letters: N rows, K columns, G groups in a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.api import CheckpointError, LazyTensor, ModuleNames
from dovetail.nn import (
    Axis,
    Codes,
    Components,
    Field,
    GroupedWeight,
    MicroscaledWeight,
    PackedWeight,
    QuantFormat,
    ScaledWeight,
    StoredWeight,
    WeightName,
    packed_axis,
    read_microscales,
    read_scales,
    read_tensor,
    unpack_integers,
)
from dovetail_quant_compressed_tensors.config import CompressedTensorsConfig, Group, Storage, Weights

CLASSES = {"Linear": ("linear", "head", "experts"), "Embedding": ("embedding",)}
"""Class of layers in ``targets`` → kinds of layers here."""
SCALES_OF_INPUTS = (".input_scale", ".input_global_scale")
ZERO_OF_INPUTS = ".input_zero_point"
OF_ACTIVATIONS = (*SCALES_OF_INPUTS, ZERO_OF_INPUTS)
FLOAT4 = ("nvfp4-pack-quantized", "mxfp4-pack-quantized")
SCALES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, eq=False, kw_only=True)
class PlainWeight(GroupedWeight):
    """Integers with a sign and zero-points, one in a byte.

    Attributes:
        codes: int8 ``[N, K]``.
        scales: ``[N, G]``.
        zeros: the zero-points, int8 ``[N, G]``.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor

    def fields(self) -> dict[str, Field]:
        shared = Axis(1, self.group) if self.scales.shape[1] > 1 else None
        return {
            "codes": Field(self.codes, rows=Axis(0), columns=Axis(1)),
            "scales": Field(self.scales, rows=Axis(0), columns=shared),
            "zeros": Field(self.zeros, rows=Axis(0), columns=shared),
        }

    def unpack(self) -> Codes:
        return Codes(self.codes, self.scales, self.zeros.float())


class CompressedTensorsFormat(QuantFormat):
    """Reads each weight as its group is stored."""

    config: CompressedTensorsConfig

    def __init__(self, config: CompressedTensorsConfig) -> None:
        super().__init__(config)
        self._groups = [(group, ModuleNames(group.targets)) for group in config.config_groups.values()]
        self._ignored = ModuleNames(config.ignore)

    def group_of(self, weight: WeightName) -> Group | None:
        """The group of a weight. Those that name it come before those that name its class."""
        if weight.name in self._ignored:
            return None
        for group, names in self._groups:
            if weight.name in names:
                return group
        for group, _ in self._groups:
            if any(weight.kind in CLASSES.get(target, ()) for target in group.targets):
                return group
        return None

    def _scheme(self, weight: WeightName) -> tuple[Storage, Weights] | None:
        group = self.group_of(weight)
        if group is None or group.weights is None:
            return None
        storage = self.config.storage(group)
        assert storage is not None, "the configuration was checked"
        return storage, group.weights

    def components(self, weight: WeightName) -> Components | None:
        if (scheme := self._scheme(weight)) is None:
            return None
        storage, weights = scheme
        zeros = [] if weights.symmetric else [".weight_zero_point"]
        if storage == "pack-quantized":
            order = [".weight_g_idx"] if weights.ordered else []
            required = (".weight_packed", ".weight_scale", *zeros, *order)
            return Components(required, (".weight_shape", *OF_ACTIVATIONS))
        if storage in FLOAT4:
            whole = [".weight_global_scale"] if storage == "nvfp4-pack-quantized" else []
            return Components((".weight_packed", ".weight_scale", *whole), OF_ACTIVATIONS)
        return Components((".weight", ".weight_scale", *zeros), OF_ACTIVATIONS)

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        scheme = self._scheme(weight)
        packed = tensors.get(".weight_packed")
        if scheme is None or packed is None:
            return tensors[".weight"].shape
        storage, weights = scheme
        n, *width = packed.shape
        return n, *(2 * size if storage in FLOAT4 else size * 32 // weights.num_bits for size in width)

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> StoredWeight:
        scheme = self._scheme(weight)
        assert scheme is not None, "a weight that components() leaves out is not read"
        storage, weights = scheme
        n, k = self.shape(weight, tensors)
        if storage == "pack-quantized":
            found = self._load_packed(weights, tensors, (n, k))
        elif storage in FLOAT4:
            found = self._load_float4(storage, tensors, (n, k))
        else:
            found = self._load_plain(storage, weights, tensors, (n, k))
        return found.to(device)

    def _load_packed(self, weights: Weights, tensors: Mapping[str, LazyTensor], shape: tuple[int, int]) -> StoredWeight:
        n, k = shape
        if (stored := tensors.get(".weight_shape")) is not None:
            given = read_tensor(stored, (2,), dtypes=(torch.int64, torch.int32)).tolist()
            if given != [n, k]:
                raise CheckpointError(
                    f"tensor {tensors['.weight_packed'].name} holds {n} x {k} codes of {weights.num_bits} bits, and "
                    f"{stored.name} says {given[0]} x {given[1]}",
                    "wanted rows of whole 32-bit words; use a checkpoint with other bits",
                )
        group, count = _groups(weights, k)
        zeros, groups = None, None
        if not weights.symmetric:
            words = packed_axis(0, weights.num_bits).length(n)
            packed = read_tensor(tensors[".weight_zero_point"], (words, count), dtypes=(torch.int32,))
            zeros = unpack_integers(packed, weights.num_bits, 0)[:n]
        if weights.ordered:
            groups = read_tensor(tensors[".weight_g_idx"], (k,), dtypes=(torch.int32, torch.int64), below=count).int()
        return PackedWeight(
            shape=shape,
            type="int32",
            bits=weights.num_bits,
            group=group,
            groups=groups,
            words=read_tensor(tensors[".weight_packed"]),
            scales=_row_scales(tensors[".weight_scale"], weights, (n, count)),
            zeros=zeros,
            input_scale=_read_input_scale(tensors),
        )

    def _load_plain(
        self, storage: Storage, weights: Weights, tensors: Mapping[str, LazyTensor], shape: tuple[int, int]
    ) -> StoredWeight:
        stored = tensors[".weight"]
        values, input_scale = read_tensor(stored), _read_input_scale(tensors)
        if not weights.symmetric:
            group, count = _groups(weights, shape[1])
            return PlainWeight(
                shape=shape,
                type=stored.type,
                bits=8,
                group=group,
                codes=values,
                scales=_row_scales(tensors[".weight_scale"], weights, (shape[0], count)),
                zeros=read_tensor(tensors[".weight_zero_point"], (shape[0], count), dtypes=(torch.int8,)),
                input_scale=input_scale,
            )
        if storage == "mxfp8-quantized":
            block = weights.block
            exponents = read_microscales(tensors[".weight_scale"], (shape[0], -(-shape[1] // block[1])))
            scales = exponents.float()
        else:
            scales, block = read_scales(tensors[".weight_scale"], shape, weights.block)
        return ScaledWeight(
            shape=shape, type=stored.type, values=values, scales=scales, block=block, input_scale=input_scale
        )

    def _load_float4(self, storage: Storage, tensors: Mapping[str, LazyTensor], shape: tuple[int, int]) -> StoredWeight:
        group = 16 if storage == "nvfp4-pack-quantized" else 32
        wanted = (shape[0], shape[1] // group)
        scale = None
        if storage == "nvfp4-pack-quantized":
            scales = read_tensor(tensors[".weight_scale"], wanted, dtypes=(torch.float8_e4m3fn,), finite=True)
            # What the scales were multiplied by before they were rounded.
            scale = 1 / read_tensor(tensors[".weight_global_scale"], (1,), finite=True).float()
        else:
            scales = read_microscales(tensors[".weight_scale"], wanted)
        return MicroscaledWeight(
            shape=shape,
            type="uint8",
            codes=read_tensor(tensors[".weight_packed"]),
            scales=scales,
            group=group,
            scale=scale,
            input_scale=_read_input_scale(tensors),
        )


def _groups(weights: Weights, k: int) -> tuple[int, int]:
    """Columns of a group, and groups in a row."""
    size = weights.block[1] or k
    return size, -(-k // size)


def _row_scales(lazy: LazyTensor, weights: Weights, shape: tuple[int, int]) -> Tensor:
    """Scales ``[N, G]``. One in all is repeated for each row."""
    wanted = (1, 1) if weights.scope == "tensor" else shape
    return read_tensor(lazy, wanted, dtypes=SCALES, finite=True).expand(shape).contiguous()


def _read_input_scale(tensors: Mapping[str, LazyTensor]) -> Tensor | None:
    """The scale of activations, float32 ``[1]``. None of those with a zero-point, which kernels do not know."""
    found = {name: read_tensor(tensors[name], (1,), finite=True) for name in SCALES_OF_INPUTS if name in tensors}
    shifted = False
    if ZERO_OF_INPUTS in tensors:
        shifted = bool(read_tensor(tensors[ZERO_OF_INPUTS], (1,), dtypes=(torch.int8,)).any())
    if ".input_global_scale" in found:
        return 1 / found[".input_global_scale"].float()
    return found[".input_scale"].float() if ".input_scale" in found and not shifted else None

"""Conformance tests of quantization formats and of kernels.

Letters: N rows, K columns, G groups in a row, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from dovetail.api import (
    Checkpoint,
    CheckpointError,
    Device,
    LayerKind,
    LazyTensor,
    QuantFormatCard,
    QuantKernelCard,
)
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.weights import find_weights
from dovetail.nn import (
    AffineWeight,
    Axis,
    ExpertsKernel,
    ExpertWeights,
    Field,
    QuantFormat,
    StoredWeight,
    TwoLevelScales,
    WeightKernel,
    WeightName,
)
from dovetail.nn.dense import DenseWeight
from dovetail.testing.attention import available_devices
from dovetail.testing.comparison import assert_close, dtype_of, label, tolerance
from dovetail.testing.experts import check_experts_kernel, make_experts
from dovetail.testing.harness import dtype_name
from dovetail.testing.resolution import assert_refused, claim, make_registry, refusal_message, skip_unless_present

CPU = torch.device("cpu")
WEIGHT = WeightName("model.layers.0.mlp.down_proj", "linear")
FLOATS = ("float32", "bfloat16", "float16")


def unpack_affine(packed: AffineWeight) -> Tensor:
    """The matrix ``[N, K]`` of an affine packing, float32. Also checks the packing."""
    codes, scales, mins, group = packed.codes, packed.scales, packed.mins, packed.group
    n, k = codes.shape
    assert codes.dtype in (torch.uint8, torch.int8), f"affine codes are {codes.dtype}, wanted uint8 or int8"
    assert group in range(1, k + 1), f"an affine group of {group} is not within {k} columns"
    assert k % group == 0, f"an affine group of {group} does not divide {k} columns"
    low, high = (
        (0, 2**packed.bits - 1)
        if codes.dtype == torch.uint8
        else (-(2 ** (packed.bits - 1)), 2 ** (packed.bits - 1) - 1)
    )
    assert low <= int(codes.min()) <= int(codes.max()) <= high, f"affine codes do not fit in {packed.bits} bits"
    for name, values in (("scales", scales), ("mins", mins)):
        if values is not None:
            assert values.shape == (n, k // group), f"affine {name} are {list(values.shape)}, wanted {[n, k // group]}"
    dense = codes.view(n, -1, group).float() * scales.float()[..., None]  # [N, G, group]
    return (dense if mins is None else dense + mins.float()[..., None]).view(n, k)


def unpack_dense(packed: Tensor) -> Tensor:
    return packed.float()


UNPACK: dict[str, Callable[[Any], Tensor]] = {"affine": unpack_affine, "dense": unpack_dense}
"""Packing → its matrix ``[N, K]``."""


@dataclass(frozen=True)
class WeightSample:
    """One weight as a checkpoint stores it, and its matrix.

    Attributes:
        tensors: by component (``.weight``), as the loader would yield them, the first required one first.
        dense: the matrix ``[N, K]``, float32, from another source than the format itself.
        config: the checkpoint's ``quantization_config``.
    """

    tensors: Mapping[str, LazyTensor]
    dense: Tensor
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def type(self) -> str:
        return next(iter(self.tensors.values())).type


def check_format(
    card: QuantFormatCard,
    samples: Sequence[WeightSample],
    *,
    unpack: Mapping[str, Callable[[Any], Tensor]] | None = None,
    limit: float = 1e-6,
) -> None:
    """Check every claim of a format's card.

    For each claimed type: its shape without reading, its dequantization against the sample's, and that slices of rows,
    gathered rows, reordered rows and joined weights all equal those of the whole; that the weight converts to each
    claimed packing with the same matrix; that tensors which contradict their description are refused by name. Then it
    checks that resolution refuses types that are not claimed.

    Args:
        samples: at least one for each claimed type; small, with an unusual number of rows, such as 37.
        unpack: for packings besides :data:`UNPACK`: packing → its matrix.
        limit: on the relative error of the dequantization in float32.

    Raises:
        AssertionError: names the claim that failed.
    """
    known = UNPACK | dict(unpack or {})
    lacking = sorted(set(card.types) - {s.type for s in samples})
    assert not lacking, f"{label(card)} claims the types {', '.join(lacking)}, for which no sample is given"
    for sample in samples:
        text = f"{label(card)} claims the type {sample.type}"
        assert sample.type in card.types, f"{label(card)}: a sample of type {sample.type}, which is not claimed"
        with claim(text):
            weight = _load(card, sample, text)
            _check_values(weight, sample, limit, text)
            _check_rows(weight, text)
            _check_packings(card, weight, sample, known, limit, text)
            _check_damage(card, sample, text)
    for one in samples:
        for other in samples:
            if one.type != other.type and one.dense.shape[1] == other.dense.shape[1]:
                with claim(f"{label(card)}: joining {one.type} and {other.type}"):
                    parts = [_load(card, s, label(card)) for s in (one, other)]
                    _check_join(parts, f"{label(card)}: joining {one.type} and {other.type}")
    missing = "no_such_type"
    assert_refused(partial(_resolve, card, missing), f"{label(card)} does not claim {missing}", missing)


def _reader(card: QuantFormatCard, sample: WeightSample) -> QuantFormat:
    config: Any = sample.config
    if card.config is not None:
        config = import_dotted(card.config).model_validate(dict(sample.config))
    found: QuantFormat = import_dotted(card.target)(config)
    return found


def _load(card: QuantFormatCard, sample: WeightSample, text: str) -> StoredWeight:
    reader = _reader(card, sample)
    components = reader.components(WEIGHT)
    assert components is not None, f"{text}: components() leaves out {WEIGHT.name}"
    lacking = set(components.required) - set(sample.tensors)
    assert not lacking, f"{text}: the sample lacks {', '.join(sorted(lacking))}"
    unknown = set(sample.tensors) - {*components.required, *components.optional}
    assert not unknown, f"{text}: components() does not name {', '.join(sorted(unknown))}"
    shape, announced = tuple(sample.dense.shape), tuple(reader.shape(WEIGHT, sample.tensors))
    assert announced == shape, f"{text}: shape() is {announced}, wanted {shape}"
    weight = reader.load(WEIGHT, sample.tensors, CPU, torch.float32)
    assert tuple(weight.shape) == shape, f"{text}: the weight is {weight.shape}, wanted {shape}"
    assert weight.type == sample.type, f"{text}: the weight's type is {weight.type!r}"
    assert weight.nbytes > 0, f"{text}: nbytes is {weight.nbytes}"
    return weight


def _check_values(weight: StoredWeight, sample: WeightSample, limit: float, text: str) -> None:
    dense = weight.dense(torch.float32)
    assert dense.dtype == torch.float32, f"{text}: asked for float32, rows() gives {dense.dtype}"
    assert_close(dense.flatten(), sample.dense.float().flatten(), limit, f"{text}: its dequantization")
    for name in FLOATS[1:]:
        dtype = dtype_of(name)
        rounded = weight.dense(dtype)
        assert rounded.dtype == dtype, f"{text}: asked for {name}, rows() gives {rounded.dtype}"
        assert_close(rounded.flatten(), dense.flatten(), tolerance(dtype), f"{text}: its dequantization in {name}")


def _check_rows(weight: StoredWeight, text: str) -> None:
    n = weight.shape[0]
    dense = weight.dense(torch.float32)
    for start, stop in {(0, 1), (n - 1, n), (0, n // 2), (n // 2, n), (n // 3, n - n // 3)}:
        rows = weight.rows(start, stop, torch.float32)
        assert torch.equal(rows, dense[start:stop]), f"{text}: rows({start}, {stop}) is not that slice of the whole"
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(n, (2 * n + 1,), generator=generator)
    for expected in (ids, ids[:1]):
        taken = weight.take(expected, torch.float32)
        assert torch.equal(taken, dense[expected]), f"{text}: take() does not give the rows that were asked for"
    order = torch.randperm(n, generator=generator)
    reorder = weight.reorder(order)
    assert torch.equal(reorder.dense(torch.float32), dense[order]), f"{text}: reorder() is not in the order asked for"
    assert torch.equal(weight.dense(torch.float32), dense), f"{text}: reorder() changes the weight itself"
    moved = weight.to(dense.device)
    assert torch.equal(moved.dense(torch.float32), dense), f"{text}: to() changes the weight"
    _check_join([weight, reorder, weight], f"{text}: joining")


def _check_join(parts: Sequence[StoredWeight], text: str) -> None:
    joined = parts[0].join(parts)
    if joined is None:
        return
    expected = torch.cat([p.dense(torch.float32) for p in parts])
    assert tuple(joined.shape) == tuple(expected.shape), f"{text}: the result is {joined.shape}"
    assert torch.equal(joined.dense(torch.float32), expected), f"{text}: the rows are not those of the parts in order"


def _check_packings(
    card: QuantFormatCard,
    weight: StoredWeight,
    sample: WeightSample,
    known: Mapping[str, Callable[[Any], Tensor]],
    limit: float,
    text: str,
) -> None:
    for packing in card.types[sample.type]:
        claimed = f"{text} as {packing}"
        packed = weight.pack(packing)
        assert packed is not None, f"{claimed}: pack() gives None"
        assert packing in known, f"{claimed}: the kit cannot read that packing; give unpack={{{packing!r}: …}}"
        with claim(claimed):
            found = known[packing](packed)
        assert_close(found.flatten(), weight.dense(torch.float32).flatten(), limit, claimed)
    assert weight.pack("no-such-packing") is None, f"{text}: pack() hands out a packing that does not exist"


def _check_damage(card: QuantFormatCard, sample: WeightSample, text: str) -> None:
    for component, tensor in sample.tensors.items():
        whole = tensor.read()
        damaged = replace(tensor, read=partial(_identity, whole[:-1]))
        load = partial(_reader(card, sample).load, WEIGHT, {**sample.tensors, component: damaged}, CPU, torch.float32)
        refused = refusal_message(load, CheckpointError)
        assert refused is not None, f"{text}: a {component} with a row less than announced is not refused"
        assert tensor.name in refused, f"{text}: a truncated {component} is refused without its name: {refused}"


def _identity(value: Tensor) -> Tensor:
    return value


def _resolve(card: QuantFormatCard, type_: str) -> None:
    checkpoint = Checkpoint(path="under-test", files=(), tensor_types={type_: 1})
    config = {"quantization_config": {"quant_method": card.methods[0]}} if card.methods else {}
    find_weights(checkpoint, config, PlanOptions(), "cpu", "float32", make_registry(card), [])


@dataclass(frozen=True, eq=False)
class AffineSample(StoredWeight):
    """Random codes with random scales, for kernels that support the packing ``affine``."""

    packed: AffineWeight

    @classmethod
    def of(cls, packed: AffineWeight) -> AffineSample:
        n, k = packed.codes.shape
        return cls((n, k), "affine", packed)

    @classmethod
    def random(cls, n: int, k: int, *, bits: int, group: int, mins: bool, signed: bool) -> AffineSample:
        generator = torch.Generator().manual_seed(n + k + bits)
        low = -(2 ** (bits - 1)) if signed else 0
        codes = torch.randint(low, low + 2**bits, (n, k), generator=generator)
        scales = (0.5 + torch.rand(n, k // group, generator=generator)) / 2**bits
        offsets = -scales * torch.rand(n, k // group, generator=generator) * 2**bits if mins else None
        return cls.of(AffineWeight(codes.to(torch.int8 if signed else torch.uint8), scales, offsets, bits, group))

    def with_two_level_scales(self) -> AffineSample:
        """A similar weight, with scales and minimums that are small integers times a number for each row."""
        p = self.packed

        def split(values: Tensor) -> TwoLevelScales:
            units = values.abs().amax(-1, keepdim=True) / 63
            return TwoLevelScales(units.half(), (values / units).round().to(torch.int8))

        mins = None if p.mins is None else split(p.mins.float())
        return AffineSample.of(replace(p, scales=split(p.scales.float()), mins=mins))

    def fields(self) -> dict[str, Field]:
        return {"codes": Field(self.packed.codes, Axis(0), Axis(1))}

    @classmethod
    def join(cls, parts: Sequence[StoredWeight]) -> None:
        return None

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return unpack_affine(self.packed).to(dtype)

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        return self.dequantize(dtype)[start:stop]

    def take(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return self.dequantize(dtype)[ids]

    def to(self, device: torch.device) -> AffineSample:
        p = self.packed
        mins = None if p.mins is None else p.mins.to(device)
        return AffineSample.of(replace(p, codes=p.codes.to(device), scales=p.scales.to(device), mins=mins))

    def pack(self, packing: str) -> AffineWeight | None:
        return self.packed if packing == "affine" else None


def sample_weights(packing: str) -> list[StoredWeight]:
    """Weights in one of the framework's own packings, in even and odd shapes; empty for other packings."""
    if packing == "affine":
        flat = [
            AffineSample.random(64, 128, bits=4, group=32, mins=False, signed=False),
            AffineSample.random(37, 96, bits=4, group=32, mins=True, signed=False),
            AffineSample.random(33, 80, bits=3, group=16, mins=True, signed=False),
            AffineSample.random(1, 64, bits=8, group=64, mins=False, signed=True),
            AffineSample.random(31, 192, bits=8, group=32, mins=True, signed=False),
        ]
        return [*flat, flat[0].with_two_level_scales(), flat[2].with_two_level_scales()]
    if packing in ("dense", "*"):
        generator = torch.Generator().manual_seed(0)
        shapes = ((64, 128), (37, 96), (1, 33), (129, 7))
        return [DenseWeight.of(torch.randn(n, k, generator=generator), "float32") for n, k in shapes]
    return []


def sample_experts(packing: str) -> list[ExpertWeights]:
    """Experts whose weights are in one of the framework's own packings; empty for other packings."""

    def affine(n: int, k: int, seed: int) -> StoredWeight:
        return AffineSample.random(n, k, bits=4, group=16, mins=seed % 2 == 0, signed=False)

    def dense(n: int, k: int, seed: int) -> StoredWeight:
        generator = torch.Generator().manual_seed(seed)
        return DenseWeight.of(torch.randn(n, k, generator=generator) * k**-0.5, "float32")

    if packing == "affine":
        return [make_experts(affine), make_experts(affine, channels=32, inner=16, experts=4, top_k=1)]
    if packing in ("dense", "*"):
        return [make_experts(dense), make_experts(dense, channels=13, inner=7, experts=9, top_k=4)]
    return []


def check_kernel(
    card: QuantKernelCard,
    weights: Sequence[StoredWeight] | Sequence[ExpertWeights] = (),
    *,
    limits: Mapping[str, float] | None = None,
) -> None:
    """Check every claim of a kernel's card: each claimed packing, layer kind and dtype against the dequantized weight.

    Weights in the framework's own packings (``affine``, ``dense``, ``*``) are always tested. Each is multiplied with
    one token, with several, and with inputs that are not contiguous. A weight that the kernel refuses, with a reason,
    is skipped, but the kernel must accept one in each claimed packing. Kernels of experts are compared with the sum
    over each token's experts, with and without biases, and with some of the experts on other ranks. Then it checks that
    resolution refuses dtypes, devices, kinds and packings that are not claimed.

    Args:
        weights: in the other claimed packings: matrices, or for kernels of experts :class:`dovetail.nn.ExpertWeights`.
        limits: dtype → the largest relative error; by default that of two roundings, which a kernel that also quantizes
            activations exceeds.

    Raises:
        AssertionError: names the claim that failed.
        SkipTest: the card's probe rejects this machine, or none of its devices is available.
    """
    check_kernel_refusals(card)
    matrices = [w for w in weights if isinstance(w, StoredWeight)]
    if "experts" in card.kinds:
        assert not matrices, f"{label(card)} is for experts, so the kit needs ExpertWeights, not single matrices"
        _check_experts(card, [w for w in weights if isinstance(w, ExpertWeights)], limits or {})
    else:
        assert len(matrices) == len(weights), (
            f"{label(card)} is for matrices, so the kit needs those, not ExpertWeights"
        )
        _check_matrices(card, matrices, limits)


def _check_experts(card: QuantKernelCard, given: Sequence[ExpertWeights], limits: Mapping[str, float]) -> None:
    kernel: type[ExpertsKernel] = import_dotted(card.target)
    samples = list(given)
    for packing in card.packings:
        own = [e for e in given if all(_is_packed(w, packing) for w in (*e.gate, *e.up, *e.down))]
        tried = [*own, *sample_experts(packing)]
        assert tried, f"{label(card)} claims {packing}, for which no experts are given"
        _check_reasons(card, [kernel.unsupported_reason(experts) for experts in tried], packing, "experts")
        samples += sample_experts(packing)
    skip_unless_present(card, card.probe)
    check_experts_kernel(card, kernel, samples, available_devices(card.devices, label(card)), limits)


def _check_matrices(card: QuantKernelCard, weights: Sequence[StoredWeight], limits: Mapping[str, float] | None) -> None:
    kernel: type[WeightKernel] = import_dotted(card.target)
    for packing in card.packings:
        tried = [*(w for w in weights if _is_packed(w, packing)), *sample_weights(packing)]
        assert tried, f"{label(card)} claims {packing}, for which no weight is given"
        for kind in card.kinds:
            _check_reasons(card, [kernel.unsupported_reason(weight, kind) for weight in tried], packing, kind)
    skip_unless_present(card, card.probe)
    for device in available_devices(card.devices, label(card)):
        for weight in dict.fromkeys([*weights, *(w for p in card.packings for w in sample_weights(p))]):
            for kind in card.kinds:
                for dtype in card.dtypes:
                    limit = (limits or {}).get(dtype, tolerance(dtype_of(dtype), 2))
                    _check_product(card, kernel, weight, kind, dtype, device, limit)


def _is_packed(weight: StoredWeight, packing: str) -> bool:
    return packing in ("*", weight.type) or weight.pack(packing) is not None


def _check_reasons(card: QuantKernelCard, reasons: Sequence[str | None], packing: str, kind: LayerKind) -> None:
    """Check that a kernel takes something in a claimed packing, and says why it does not take the rest."""
    for reason in reasons:
        assert reason is None or reason.strip(), f"{label(card)}: declines a weight without saying why"
    assert None in reasons, (
        f"{label(card)} claims {packing} in {kind} layers, but declines all: {'; '.join(map(str, reasons))}"
    )


def _check_product(
    card: QuantKernelCard,
    kernel: type[WeightKernel],
    weight: StoredWeight,
    kind: LayerKind,
    dtype: str,
    device: torch.device,
    limit: float,
) -> None:
    n, k = weight.shape
    text = f"{label(card)} claims {kind} layers in {dtype} (here {weight.type} [{n}, {k}] on {device})"
    if kernel.unsupported_reason(weight, kind) is not None:
        return
    exact = weight.dense(torch.float32).double()
    with claim(text):
        made = kernel(weight, kind, device, dtype_of(dtype))
        assert made.nbytes > 0, f"{text}: nbytes is {made.nbytes}"
        for x in _inputs(kind, n, k, dtype_of(dtype)):
            given = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device).copy_(x)
            with torch.inference_mode():
                found = made(given)
            expected = exact[x] if kind == "embedding" else x.double() @ exact.T
            # What the products of a row of x are like; sums that happen to cancel are not held to a smaller error.
            typical = None if kind == "embedding" else x.double().norm(dim=-1) * exact.norm() / k**0.5
            shape = f"x {list(x.shape)}{'' if x.is_contiguous() else ', not contiguous'}"
            assert found.dtype == dtype_of(dtype), f"{text}: the result is {dtype_name(found.dtype)}"
            assert torch.equal(given.cpu(), x), f"{text}: x is changed"
            assert_close(found, expected, limit, f"{text}: {shape}", typical)


def _inputs(kind: LayerKind, n: int, k: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    if kind == "embedding":
        return [torch.randint(n, (t,), generator=generator) for t in (1, 2, 17)]
    whole = [torch.randn(t, k, generator=generator).to(dtype) for t in (1, 2, 7, 33)]
    part = torch.randn(5, 2 * k, generator=generator).to(dtype)[:, k:]  # as a split of a wider product gives it
    return [*whole, part]


def check_kernel_refusals(card: QuantKernelCard) -> None:
    """Check that resolution refuses the card, with the reason, for what it does not claim."""
    device: Device = "cpu" if "*" in card.devices else card.devices[0]

    def resolve(type_: str, kinds: tuple[LayerKind, ...], device: str, dtype: str) -> None:
        # A stand-in for the format whose weights the kernel would multiply.
        packings = tuple(p for p in card.packings if p != "*") if type_ == "claimed" else ()
        reader = QuantFormatCard(name="any", target="any:any", types={type_: packings}, kinds=kinds)
        checkpoint = Checkpoint(path="under-test", files=(), tensor_types={type_: 1})
        find_weights(checkpoint, {}, PlanOptions(), device, dtype, make_registry(card, reader), [], kinds)

    who = label(card)
    for dtype in set(FLOATS) - set(card.dtypes):
        assert_refused(partial(resolve, "claimed", card.kinds, device, dtype), f"{who} does not claim {dtype}", dtype)
    if "*" not in card.devices:
        refused = partial(resolve, "claimed", card.kinds, "nowhere", card.dtypes[0])
        assert_refused(refused, f"{who} does not claim the device nowhere", "nowhere")
    for kind in set(get_args(LayerKind)) - set(card.kinds):
        assert_refused(
            partial(resolve, "claimed", (kind,), device, card.dtypes[0]), f"{who} does not claim {kind}", kind
        )
    if "*" not in card.packings:
        refused = partial(resolve, "no_such_type", card.kinds, device, card.dtypes[0])
        assert_refused(refused, f"{who} does not claim no_such_type", "no_such_type")

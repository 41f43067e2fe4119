"""Conformance tests of kernels.

Letters: N rows, K columns, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from dovetail.api import Checkpoint, Device, LayerKind, QuantFormatCard, QuantKernelCard
from dovetail.engine.step.output_checks import check_tensor
from dovetail.kernel.blame import check_class
from dovetail.kernel.discovery import import_part
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.weights import find_weights
from dovetail.nn import ExpertsKernel, ExpertWeights, StoredWeight, WeightKernel
from dovetail.nn.checked_parts import CheckedClasses
from dovetail.nn.dense import DenseWeight
from dovetail.testing.attention import available_devices
from dovetail.testing.comparison import assert_close, dtype_of, label, tolerance
from dovetail.testing.experts import check_experts_kernel, make_experts
from dovetail.testing.packings import AffineSample, sample_weights
from dovetail.testing.resolution import assert_refused, claim, make_registry, part_of, skip_unless_present

FLOATS = ("float32", "bfloat16", "float16")


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

    Weights in the framework's own packings (``affine``, ``scaled_float``, ``codebook``, ``float4``,
    ``dense``, ``*``) are always tested. Each is multiplied with
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
    kernel: type[ExpertsKernel] = _checked_kernel(card, ExpertsKernel)
    samples = list(given)
    for packing in card.packings:
        own = [e for e in given if all(_is_packed(w, packing) for w in (*e.gate, *e.up, *e.down))]
        tried = [*own, *sample_experts(packing)]
        assert tried, f"{label(card)} claims {packing}, for which no experts are given"
        with claim(f"{label(card)} claims {packing}"):
            _check_reasons(card, [kernel.unsupported_reason(experts) for experts in tried], packing, "experts")
        samples += sample_experts(packing)
    skip_unless_present(card, card.probe)
    check_experts_kernel(card, kernel, samples, available_devices(card.devices, label(card)), limits)


def _check_matrices(card: QuantKernelCard, weights: Sequence[StoredWeight], limits: Mapping[str, float] | None) -> None:
    kernel: type[WeightKernel] = _checked_kernel(card, WeightKernel)
    for packing in card.packings:
        tried = [*(w for w in weights if _is_packed(w, packing)), *sample_weights(packing)]
        assert tried, f"{label(card)} claims {packing}, for which no weight is given"
        for kind in card.kinds:
            with claim(f"{label(card)} claims {packing}"):
                _check_reasons(card, [kernel.unsupported_reason(weight, kind) for weight in tried], packing, kind)
    skip_unless_present(card, card.probe)
    for device in available_devices(card.devices, label(card)):
        for weight in dict.fromkeys([*weights, *(w for p in card.packings for w in sample_weights(p))]):
            for kind in card.kinds:
                for dtype in card.dtypes:
                    limit = (limits or {}).get(dtype, tolerance(dtype_of(dtype), 2))
                    _check_product(card, kernel, weight, kind, dtype, device, limit)


def _checked_kernel(card: QuantKernelCard, base: type) -> Any:
    """The card's class, whose answers are checked as the engine checks them."""
    with claim(label(card)):
        part = part_of(card)
        check_class(part, card.target, import_part(part, card.target), base)
        return CheckedClasses().kernel(part)


def _is_packed(weight: StoredWeight, packing: str) -> bool:
    return packing in ("*", weight.type) or weight.pack(packing) is not None


def _check_reasons(card: QuantKernelCard, reasons: Sequence[str | None], packing: str, kind: LayerKind) -> None:
    """Check that a kernel takes something in a claimed packing."""
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
            shape_of_result = (*x.shape, k) if kind == "embedding" else (*x.shape[:-1], n)
            check_tensor(part_of(card), "a product", found, shape_of_result, dtype_of(dtype), given.device)
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

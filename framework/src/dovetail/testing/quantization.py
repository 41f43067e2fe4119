"""Conformance tests of kernels.

Letters: N rows, K columns, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from dovetail.api import Checkpoint, Device, LayerKind, QuantFormatCard, QuantKernelCard
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.weights import WEIGHT_KINDS, find_weights
from dovetail.nn import StoredWeight, WeightKernel
from dovetail.testing.attention import available_devices
from dovetail.testing.comparison import assert_close, dtype_of, label, tolerance
from dovetail.testing.harness import dtype_name
from dovetail.testing.packings import sample_weights
from dovetail.testing.resolution import assert_refused, claim, make_registry, skip_unless_present

FLOATS = ("float32", "bfloat16", "float16")


def check_kernel(
    card: QuantKernelCard,
    weights: Sequence[StoredWeight] = (),
    *,
    limits: Mapping[str, float] | None = None,
) -> None:
    """Check every claim of a kernel's card: each claimed packing, layer kind and dtype against the dequantized weight.

    Weights in the framework's own packings (``affine``, ``scaled_float``, ``codebook``, ``float4``,
    ``dense``, ``*``) are always tested. Each is multiplied with
    one token, with several, and with inputs that are not contiguous. A weight that the kernel refuses, with a reason,
    is skipped, but the kernel must accept one in each claimed packing. Then it checks that resolution refuses dtypes,
    devices, kinds and packings that are not claimed.

    Args:
        weights: in the other claimed packings.
        limits: dtype → the largest relative error; by default that of two roundings, which a kernel that also quantizes
            activations exceeds.

    Raises:
        AssertionError: names the claim that failed.
        SkipTest: the card's probe rejects this machine, or none of its devices is available.
    """
    check_kernel_refusals(card)
    kernel: type[WeightKernel] = import_dotted(card.target)
    for packing in card.packings:
        tried = [*(w for w in weights if _is_packed(w, packing)), *sample_weights(packing)]
        assert tried, f"{label(card)} claims {packing}, for which no weight is given"
        for kind in card.kinds:
            _check_accepted(card, kernel, tried, packing, kind)
    skip_unless_present(card, card.probe)
    for device in available_devices(card.devices, label(card)):
        for weight in dict.fromkeys([*weights, *(w for p in card.packings for w in sample_weights(p))]):
            for kind in card.kinds:
                for dtype in card.dtypes:
                    limit = (limits or {}).get(dtype, tolerance(dtype_of(dtype), 2))
                    _check_product(card, kernel, weight, kind, dtype, device, limit)


def _is_packed(weight: StoredWeight, packing: str) -> bool:
    return packing in ("*", weight.type) or weight.pack(packing) is not None


def _check_accepted(
    card: QuantKernelCard, kernel: type[WeightKernel], tried: Sequence[StoredWeight], packing: str, kind: LayerKind
) -> None:
    reasons = [kernel.unsupported_reason(weight, kind) for weight in tried]
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
        find_weights(checkpoint, {}, PlanOptions(), device, dtype, make_registry(card, reader), [])

    who = label(card)
    for dtype in set(FLOATS) - set(card.dtypes):
        assert_refused(partial(resolve, "claimed", card.kinds, device, dtype), f"{who} does not claim {dtype}", dtype)
    if "*" not in card.devices:
        refused = partial(resolve, "claimed", card.kinds, "nowhere", card.dtypes[0])
        assert_refused(refused, f"{who} does not claim the device nowhere", "nowhere")
    for kind in set(WEIGHT_KINDS) - set(card.kinds):
        assert_refused(
            partial(resolve, "claimed", (kind,), device, card.dtypes[0]), f"{who} does not claim {kind}", kind
        )
    if "*" not in card.packings:
        refused = partial(resolve, "no_such_type", card.kinds, device, card.dtypes[0])
        assert_refused(refused, f"{who} does not claim no_such_type", "no_such_type")

"""The interface between formats (which store weights) and kernels (which multiply with them).

Letters: N rows (output features, or vocabulary), K columns (input features), T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dovetail.api.cards import LayerKind
from dovetail.api.checkpoint import LazyTensor
from dovetail.api.errors import CheckpointError
from dovetail.nn.ops import Ops
from dovetail.nn.stored import StoredWeight


@dataclass(frozen=True)
class WeightName:
    """A weight that a model expects.

    Attributes:
        name: in the checkpoint, such as ``model.layers.0.self_attn.q_proj``: the beginning of its tensors' names.
        kind: of its layer.
    """

    name: str
    kind: LayerKind


@dataclass(frozen=True)
class Components:
    """The tensors that make up one weight, by what follows the weight's name in theirs: ``.weight``, ``.qweight``,
    ``.weight.absmax``, ``_blocks``, or nothing at all.

    Attributes:
        required: all of them must be there. The stored type of the first one is the weight's, as in the format's card.
        optional: they may be there.
    """

    required: tuple[str, ...] = (".weight",)
    optional: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for names in (self.required, self.optional):
            if not (isinstance(names, tuple) and all(isinstance(name, str) for name in names)):
                raise TypeError(f"wanted tuples of names, found {names!r}")


def read_tensor(
    lazy: LazyTensor,
    shape: tuple[int, ...] | None = None,
    *,
    dtypes: Sequence[torch.dtype] = (),
    finite: bool = False,
    below: int | None = None,
) -> Tensor:
    """Read a tensor whose stored type is a torch dtype. What its format wants of it is said here, since a file may
    hold anything.

    Args:
        shape: which the other tensors of its weight call for; None for any. Dimensions of size 1 may be missing or
            more, since formats write scales in either way.
        dtypes: of which it has to be one; empty for any.
        finite: it has to be of a floating-point dtype, without NaN and infinities, as scales are.
        below: it has to be of integers from 0 up that are less than this, as indices are; None for any.

    Returns:
        The tensor in that shape.

    Raises:
        CheckpointError: it is not as announced, or not as wanted; names the tensor.
    """
    value, dtype = lazy.read(), getattr(torch, lazy.type, None)
    if tuple(value.shape) != lazy.shape or (isinstance(dtype, torch.dtype) and value.dtype != dtype):
        raise CheckpointError(
            f"tensor {lazy.name} was announced as {lazy.type} {list(lazy.shape)}, but reads as "
            f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}",
            "the file is damaged or its loader is at fault; download it again or update the loader",
        )
    floating = value.is_floating_point()
    if (dtypes and value.dtype not in dtypes) or (finite and not floating) or (below is not None and floating):
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        wanted = names or ("a floating-point one" if finite else "one of integers")
        raise CheckpointError(f"tensor {lazy.name} is of type {lazy.type}, wanted {wanted}", MISMATCH)
    if shape is not None and wide(lazy.shape) != wide(shape):
        raise CheckpointError(
            f"tensor {lazy.name} is {list(lazy.shape)}, wanted {list(shape)}, as its quantization_config and the other "
            "tensors of its weight say",
            MISMATCH,
        )
    if finite and not bool(value.float().isfinite().all()):
        raise CheckpointError(
            f"tensor {lazy.name} holds a number that is infinite or not a number (NaN)",
            "the file is damaged, or the model was broken before it was quantized; download it again",
        )
    if below is not None and value.numel() and not 0 <= int(value.min()) <= int(value.max()) < below:
        raise CheckpointError(
            f"tensor {lazy.name} holds numbers from {int(value.min())} to {int(value.max())}, wanted 0 to {below - 1}",
            MISMATCH,
        )
    return value if shape is None else value.reshape(shape)


MISMATCH = "the file is damaged, or its quantization_config belongs to another one; download it again"


def wide(shape: tuple[int, ...]) -> list[int]:
    """A shape without dimensions of size 1, which files have or lack as they please."""
    return [size for size in shape if size != 1]


class QuantFormat(ABC):
    """Reads the tensors of one weight into a :class:`dovetail.nn.StoredWeight`.

    Args:
        config: the checkpoint's ``quantization_config``, as an object of the card's ``config`` class, or as it is in
            the file where the card has none; an empty dict if the checkpoint has none.
    """

    def __init__(self, config: Any) -> None:
        self.config = config

    def components(self, weight: WeightName) -> Components | None:
        """The tensors of a weight, for this configuration and this layer. None if the format does not store this
        weight, because the configuration leaves it out (``ignore``, ``modules_to_not_convert``). Only asked for kinds of
        layers that the format's card claims.

        The Plan's formats are asked in the order of their rank. The first one all of whose required tensors are there,
        and whose card lists the first one's type, reads the weight.
        """
        return Components()

    @abstractmethod
    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> StoredWeight:
        """Read one weight. What it raises or returns wrongly, and later the weight itself, is told as this format's
        fault.

        Args:
            tensors: by component. Optional ones may lack. Experts that are stacked in one tensor are read one by one,
                so each is a matrix here.
            dtype: of the activations; formats of full-precision weights convert to it.

        Raises:
            CheckpointError: the tensors contradict each other or the format; names the tensor.
        """

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        """The logical ``(N, K)`` of a weight, without reading it; anything but two numbers is refused."""
        return next(iter(tensors.values())).shape


def unpacked_reason(weight: StoredWeight, packing: str) -> str | None:
    """Why a weight does not have a packing that its format's card lists, or None if it has. (Parts of some weights
    do not: the columns of a part may belong to groups of different sizes.)
    """
    packed = weight.first_rows().pack(packing)
    return f"this weight of type {weight.type} has no packing {packing}" if packed is None else None


@dataclass(frozen=True)
class Gate:
    """An activation of gate, times up, which are side by side in a product: ``[..., 2 * C]`` → ``[..., C]``.

    Attributes:
        name: of the operation in :mod:`dovetail.nn.ops`, such as ``silu_mul``.
        compute: the platform's implementation of it.
    """

    name: str
    compute: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.compute(x)


@dataclass(frozen=True)
class DeferredNorm:
    """A sum whose RMS norm is left to the products that read it, for kernels that compute it on the way.

    Attributes:
        total: ``[T, C]``, the sum.
        scale, eps: of the norm, as in :func:`dovetail.nn.ops.rms_norm`.
    """

    total: Tensor
    scale: Tensor
    eps: float


class WeightKernel(ABC):
    """Multiplies by one weight.

    For the kinds ``linear`` and ``head``, :meth:`__call__` maps x ``[T, K]`` to ``x @ w.T`` ``[T, N]``; for
    ``embedding`` it maps ids ``[T]`` to rows ``[T, K]``. The kernel may repack the weight once, and should then not
    keep a reference to the original. A kernel that quantizes activations finds their scale, if the checkpoint has one,
    in the weight's packing or in :attr:`dovetail.nn.StoredWeight.input_scale`; one that does not leaves it alone.

    Attributes:
        ops: the platform's operations, set by the loader of the weight; until then the references.
    """

    ops: Ops = Ops()

    @classmethod
    def unsupported_reason(cls, weight: StoredWeight, kind: LayerKind) -> str | None:
        """The reason why this kernel cannot take this weight (for example its shape), or None. With a reason, the
        next kernel of the Plan is tried.
        """
        return None

    @abstractmethod
    def __init__(self, weight: StoredWeight, kind: LayerKind, device: torch.device, dtype: torch.dtype) -> None: ...

    def process_after_loading(self) -> None:
        """Called once after loading: :attr:`ops` is set, and no product was computed yet."""
        return

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...

    def multiply_gated(self, x: Tensor, gate: Gate) -> Tensor:
        """``gate(self(x))``, for a weight whose first half of rows gives gate, and whose second gives up. A kernel that knows the
        operation may compute it before it writes the product, which saves a kernel.
        """
        return gate(self(x))

    def defers(self, tokens: int) -> bool:
        """Whether, of so many tokens, a norm between two products is left to this kernel: it then has :meth:`multiply_and_add` and
        :meth:`multiply_deferred`, and two products with a norm between them save the norm's own kernel. Asked in each step.
        """
        return False

    def multiply_and_add(self, x: Tensor, residual: Tensor, scale: Tensor, eps: float) -> DeferredNorm:
        """``residual + self(x)``, whose RMS norm with ``scale`` and ``eps`` is yet to be computed by a kernel of the same class."""
        raise NotImplementedError

    def multiply_deferred(self, x: DeferredNorm, gate: Gate | None) -> Tensor:
        """The product with the norm of ``x.total``, which a kernel of the same class has made; gated as in :meth:`multiply_gated`."""
        raise NotImplementedError

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory of the weight as the kernel stores it."""

"""Compares what kernels, the attention backend and a platform's operations compute with what was agreed: once, in the
first step of an engine, so that no later step is slower for it.

What has another shape, dtype or device fails somewhere else if at all, where its plugin is no longer to be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from dovetail.api.errors import PluginError
from dovetail.kernel.blame import Blamed, describe_type, fault_of
from dovetail.kernel.plan import Plan
from dovetail.nn.attention import Attention, AttentionBackend
from dovetail.nn.context import Context
from dovetail.nn.experts import Experts
from dovetail.nn.layers import WeightLayer
from dovetail.nn.ops import REFERENCES
from dovetail.nn.weights import Gate, WeightKernel


@contextmanager
def checked_outputs(model: nn.Module, ctx: Context, plan: Plan) -> Iterator[None]:
    """A context manager for one step, in which everything that the model calls is checked.

    Raises:
        PluginError: a result is not as agreed; names the part, the layer, what was wanted and what was found.
    """
    with ExitStack() as undo:

        def put(holder: Any, name: str, value: Any) -> None:
            undo.callback(setattr, holder, name, getattr(holder, name))
            setattr(holder, name, value)

        for layer in dict.fromkeys(ctx.layers.values()):
            if isinstance(layer, Experts):
                put(layer, "kernel", _Checked(layer.kernel, _expect_experts(layer)))
            else:
                put(layer, "kernels", _check_kernels(layer, ctx.dtype))
        names = {id(module): name for name, module in model.named_modules()}
        for number, attention in enumerate(ctx.attention_layers):
            name = names.get(id(attention)) or f"number {number}"
            put(attention, "backend", _CheckedBackend(attention, plan.attention.part, name))
        operations = {
            id(function): _check_operation(name, function, plan.platform.part)
            for name, function in ctx.ops.claimed.items()
            if name in REFERENCES
        }
        for holder in (ctx.ops, *model.modules()):  # modules keep some of them
            for name, value in list(vars(holder).items()):
                if id(value) in operations:
                    put(holder, name, operations[id(value)])
                elif isinstance(value, Gate) and id(value.compute) in operations:
                    put(holder, name, replace(value, compute=operations[id(value.compute)]))
        yield


class _Checked:
    """A kernel whose results are checked."""

    def __init__(self, kernel: Any, check: Callable[[Any, Any, tuple[Any, ...]], None]) -> None:
        self._kernel = kernel
        self._check = check

    def __call__(self, *arguments: Any) -> Any:
        found = self._kernel(*arguments)
        self._check(getattr(self._kernel, "part", None), found, arguments)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)


class _CheckedProduct(_Checked):
    """A kernel of one weight.

    Args:
        check_gated: of a product with its gate inside.
    """

    def __init__(
        self,
        kernel: Any,
        check: Callable[[Any, Any, tuple[Any, ...]], None],
        check_gated: Callable[[Any, Any, tuple[Any, ...]], None],
    ) -> None:
        super().__init__(kernel, check)
        self._check_gated = check_gated

    def defers(self, tokens: int) -> bool:
        return False  # each product is checked by itself

    def multiply_gated(self, x: Tensor, gate: Gate) -> Any:
        if type(self._kernel).multiply_gated is WeightKernel.multiply_gated:
            return gate(self(x))
        found = self._kernel.multiply_gated(x, gate)
        self._check_gated(getattr(self._kernel, "part", None), found, (x,))
        return found


class _CheckedBackend:
    def __init__(self, layer: Attention, part: Blamed, name: str) -> None:
        self._backend, self._spec = layer.backend, layer.spec
        self._part, self._name = part, name

    def forward(self, q: Tensor, *arguments: Any) -> Any:
        found = self._backend.forward(q, *arguments)
        self._require("forward", found, q)
        return found

    def forward_rotated(self, qk: Tensor, *arguments: Any) -> Any:
        if type(self._backend).forward_rotated is AttentionBackend.forward_rotated:
            return AttentionBackend.forward_rotated(cast("AttentionBackend", self), qk, *arguments)
        found = self._backend.forward_rotated(qk, *arguments)
        self._require("forward_rotated", found, qk)
        return found

    def _require(self, method: str, found: Any, q: Tensor) -> None:
        wanted = (q.shape[0], self._spec.num_heads, self._spec.values)
        check_tensor(self._part, f"{method}() of the layer {self._name}", found, wanted, q.dtype, q.device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _check_kernels(layer: WeightLayer, dtype: torch.dtype) -> list[Any]:
    if not layer.kernels:  # its weight was dequantized as it was loaded
        return []
    shapes = layer.local_parts()
    each: list[tuple[tuple[str, ...], int, int]]
    if len(layer.kernels) == len(shapes):
        each = [((part,), rows, columns) for part, (rows, columns) in shapes.items()]
    else:  # joined
        columns = next(iter(shapes.values()))[1]
        each = [(tuple(shapes), sum(rows for rows, _ in shapes.values()), columns)]
    return [
        _CheckedProduct(
            kernel,
            _expect_rows(layer.kind, names, rows, columns, dtype),
            _expect_rows(layer.kind, names, rows // 2, columns, dtype),
        )
        for kernel, (names, rows, columns) in zip(layer.kernels, each, strict=True)
    ]


def _expect_rows(
    kind: str, names: tuple[str, ...], rows: int, columns: int, dtype: torch.dtype
) -> Callable[[Any, Any, tuple[Any, ...]], None]:
    def check(part: Blamed | None, found: Any, arguments: tuple[Any, ...]) -> None:
        (x,) = arguments
        what = f"the {'rows' if kind == 'embedding' else 'product'} of {', '.join(names)}"
        if kind == "embedding":
            check_tensor(part, what, found, (*x.shape, columns), dtype, x.device)
        else:
            check_tensor(part, what, found, (*x.shape[:-1], rows), x.dtype, x.device)

    return check


def _expect_experts(layer: Experts) -> Callable[[Any, Any, tuple[Any, ...]], None]:
    def check(part: Blamed | None, found: Any, arguments: tuple[Any, ...]) -> None:
        x = arguments[0]
        check_tensor(
            part, f"the product of the experts {layer.names[0][0]}, …", found, tuple(x.shape), x.dtype, x.device
        )

    return check


def _check_operation(name: str, function: Callable[..., Any], part: Blamed) -> Callable[..., Any]:
    reference = REFERENCES[name]
    known: dict[Hashable, Any] = {}

    def checked(*arguments: Any, **options: Any) -> Any:
        found = function(*arguments, **options)
        # Layers are alike, and the reference takes as long as what it is compared with.
        key = _describe(arguments), _describe(tuple(options.items()))
        if key not in known:
            right = reference(*arguments, **options)
            known[key] = [_outline(each) for each in right] if isinstance(right, tuple) else _outline(right)
        wanted = known[key]
        if not isinstance(wanted, list):
            check_tensor(part, f"{name}()", found, *wanted)
            return found
        if not (isinstance(found, tuple) and len(found) == len(wanted)):
            raise fault_of(part, f"answered {name}() with {describe_type(found)}, wanted {len(wanted)} tensors")
        for place, (one, outline) in enumerate(zip(found, wanted, strict=True)):
            check_tensor(part, f"{name}()[{place}]", one, *outline)
        return found

    return checked


def _outline(tensor: Tensor) -> tuple[tuple[int, ...], torch.dtype, torch.device]:
    return tuple(tensor.shape), tensor.dtype, tensor.device


def _describe(argument: Any) -> Hashable:
    """What a result's shape and dtype can depend on. What may hold anything is like nothing else."""
    if isinstance(argument, Tensor):
        return _outline(argument)
    if isinstance(argument, (tuple, list)):
        return tuple(map(_describe, argument))
    plain = (str, int, float, type(None), torch.dtype, torch.device)
    return (type(argument), argument) if isinstance(argument, plain) else object()


def check_tensor(
    part: Blamed | None, what: str, found: Any, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Check what a part computed.

    Args:
        part: None for a kernel of the tests' own.
        what: was called or asked for.

    Raises:
        PluginError: it is no tensor of this shape, dtype and device.
    """
    if isinstance(found, Tensor) and (tuple(found.shape), found.dtype, found.device) == (shape, dtype, device):
        return
    wanted, was = f"a tensor of {dtype} {list(shape)}", describe_type(found)
    if isinstance(found, Tensor) and found.device != device:
        wanted, was = f"{wanted} on {device}", f"{was} on {found.device}"
    if part is None:  # the tests' own
        raise PluginError(f"a kernel answered {what} with {was}, wanted {wanted}")
    raise fault_of(part, f"answered {what} with {was}, wanted {wanted}")

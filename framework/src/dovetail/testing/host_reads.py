"""Finds the lines of a model's code that read a tensor on the host.

On a device whose work is queued, such a read waits for everything before it, and a step that is captured as a graph
cannot contain one. On the host nothing of that shows, so the kit looks for the reads themselves.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dovetail.nn import Context

aten = torch.ops.aten
VALUES: dict[Any, str] = {
    aten.item: "a number of a tensor",
    aten._local_scalar_dense: "a number of a tensor",
    aten.is_nonzero: "whether a tensor is true",
    aten.equal: "whether two tensors are equal",
    aten.allclose: "whether two tensors are close",
}
SIZES: dict[Any, str] = {
    aten.nonzero: "nonzero",
    aten.nonzero_numpy: "nonzero",
    aten.masked_select: "masked_select",
    aten.masked_scatter: "masked_scatter",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.unique_consecutive: "unique_consecutive",
    aten.bincount: "bincount",
    aten.tensor_split: "tensor_split at places from a tensor",
}
"""Operations whose result has as many elements as the values of a tensor say, or which check such values."""
FUNCTIONS = {
    "tolist": "a list of a tensor's numbers",
    "numpy": "a NumPy array of a tensor",
    "cpu": "a copy in host memory",
}
"""Functions that read memory of the host directly, so that no operation is seen."""
HERE = (Path(__file__).parent / "harness.py", Path(__file__))
PACKAGES = (Path(torch.__file__).parent, Path(__file__).parents[1])
"""Code of these is not the model's."""


class HostReadError(AssertionError):
    """A model's own code reads a tensor on the host; the message names the line."""


class _Watch:
    """Refuses reads while it is entered, except inside of layers that lift it.

    Lifted, it leaves its modes: each operation under them takes several times as long, and most are in such layers.
    """

    def __init__(self) -> None:
        self.lifted = 0
        self.modes = ExitStack()

    def __enter__(self) -> _Watch:
        self.modes.enter_context(_Functions(self))
        self.modes.enter_context(_Operations(self))
        return self

    def __exit__(self, *_: object) -> None:
        self.modes.close()

    def lift(self, *_: object) -> None:
        if not self.lifted:
            self.modes.close()
        self.lifted += 1

    def put_back(self, *_: object) -> None:
        self.lifted -= 1
        if not self.lifted:
            self.__enter__()

    def refuse(self, what: str) -> None:
        raise HostReadError(
            f"{_line(sys._getframe(2))}: reads {what} on the host; a step that is captured as a graph cannot do that, "
            "and every other one waits for the device: compute it with tensors, or take it from the step "
            "(max_query_len, max_seq_len) or the configuration"
        )


class _Operations(TorchDispatchMode):
    """Refuses operations that read."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and torch would import its compiler to leave these calls out of it: for seconds."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if (what := _operation_reads(func, args, named)) is not None:
            self.watch.refuse(what)
        return func(*args, **named)


class _Functions(TorchFunctionMode):
    """Refuses functions that read without an operation."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if (what := _function_reads(func, args, named)) is not None:
            self.watch.refuse(what)
        return func(*args, **named)


def _operation_reads(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """What an operation reads on the host, or None."""
    packet = func.overloadpacket
    if packet in VALUES:
        return VALUES[packet]
    if packet in SIZES:
        indices = packet is not aten.tensor_split or (len(args) > 1 and isinstance(args[1], Tensor))
        return f"the size of a result ({SIZES[packet]})" if indices else None
    if packet is aten.where and len(args) == 1:
        return "the size of a result (where with a condition alone)"
    if packet is aten.repeat_interleave and kwargs.get("output_size") is None and not isinstance(args[-1], int):
        return "the size of a result (repeat_interleave without output_size)"
    # One value for all places needs no count of them: torch fills by mask.
    counted = packet is aten.index or (packet in (aten.index_put, aten.index_put_) and args[2].numel() != 1)
    if counted and any(map(_is_mask, args[1])):
        return "the size of a result (indexing with a mask)"
    if packet is aten.one_hot and args[1:2] in ((), (-1,)):
        return "the largest number of a tensor (one_hot without num_classes)"
    return None


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _function_reads(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """What a function reads on the host, or None."""
    name = getattr(func, "__name__", "")
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    if name == "__array__":
        return FUNCTIONS["numpy"]
    if name == "to" and "cpu" in (*args[1:2], kwargs.get("device")):
        return FUNCTIONS["cpu"]
    if func in (torch.tensor, torch.as_tensor) and args and _holds_tensors(args[0]):
        return "the numbers for a new tensor (torch.stack makes one of tensors)"
    return None


def _holds_tensors(data: Any) -> bool:
    return isinstance(data, list | tuple) and any(isinstance(item, Tensor) or _holds_tensors(item) for item in data)


def _line(frame: FrameType | None) -> str:
    """``file:line: code`` of the innermost line of the model's own code, or else of the innermost outside of torch."""
    found: FrameType | None = None
    while frame is not None and Path(frame.f_code.co_filename) != HERE[0]:
        path = Path(frame.f_code.co_filename)
        if path not in HERE and not path.is_relative_to(PACKAGES[0]):
            found = found or frame
            if not path.is_relative_to(PACKAGES[1]):
                found = frame
                break
        frame = frame.f_back
    if found is None:
        return "the model"
    file, number = found.f_code.co_filename, found.f_lineno
    return f"{file}:{number}: {linecache.getline(file, number).strip()!r}"


@contextmanager
def host_reads_refused(ctx: Context) -> Iterator[None]:
    """Context manager: a read in the model's own code raises :class:`HostReadError`.

    Attention layers and layers with weights may read, because what they run is the backend's and the kernels' code.
    """
    with ExitStack() as stack:
        watch = stack.enter_context(_Watch())
        for layer in dict.fromkeys((*ctx.attention_layers, *ctx.layers.values())):
            stack.callback(layer.register_forward_pre_hook(watch.lift).remove)
            stack.callback(layer.register_forward_hook(watch.put_back, always_call=True).remove)
        yield

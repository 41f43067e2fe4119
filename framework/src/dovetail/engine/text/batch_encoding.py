"""The result of a tokenizer for one text or several: lists of numbers by name, optionally padded and as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from dovetail.api.errors import RequestError

Padding = bool | Literal["longest", "max_length", "do_not_pad"]
Tensors = Literal["pt", "np"]
PADDINGS = (True, False, "longest", "max_length", "do_not_pad")


class BatchEncoding(dict[str, Any]):
    """``input_ids``, ``attention_mask`` and others, as keys and as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no {name}, only {', '.join(self)}") from None

    def to(self, device: Any, **_: Any) -> BatchEncoding:
        """Move torch tensors to a device. Returns this object."""
        for name, value in self.items():
            if hasattr(value, "to"):
                self[name] = value.to(device)
        return self


def pad_rows(
    rows: list[list[int]],
    padding: Padding | None,
    pad_token_id: int | None,
    side: str,
    *,
    max_length: int | None = None,
    multiple_of: int | None = None,
) -> tuple[list[list[int]], list[list[int]]]:
    """Pad rows to one length. Also returns the attention mask (1, and 0 for padding).

    Args:
        padding: True or ``longest`` for the length of the longest row, ``max_length`` for that length, otherwise no
            padding.
        side: ``left`` or ``right``, where padding goes.
        multiple_of: make the length a multiple of this.

    Raises:
        RequestError: the argument is not valid, or there is no padding token.
    """
    if padding is not None and padding not in PADDINGS:
        raise RequestError(f"padding is {padding!r}", f"wanted one of {', '.join(map(str, PADDINGS))}", param="padding")
    if side not in ("left", "right"):
        raise RequestError(f"padding_side is {side!r}", "wanted left or right", param="padding_side")
    masks = [[1] * len(row) for row in rows]
    if padding in (None, False, "do_not_pad"):
        return rows, masks
    longest = max(map(len, rows), default=0)
    length = max_length if padding == "max_length" and max_length is not None else longest
    if multiple_of and length % multiple_of:
        length += multiple_of - length % multiple_of
    if pad_token_id is None:
        raise RequestError(
            "padding was asked for, and the tokenizer has no padding token",
            "set one: tokenizer.pad_token = tokenizer.eos_token",
            param="padding",
        )
    if side == "left":
        padded = [[pad_token_id] * (length - len(row)) + row for row in rows]
        return padded, [[0] * (length - len(mask)) + mask for mask in masks]
    padded = [row + [pad_token_id] * (length - len(row)) for row in rows]
    return padded, [mask + [0] * (length - len(mask)) for mask in masks]


def to_tensor(rows: Sequence[Sequence[int]], kind: Tensors) -> Any:
    """Convert rows to a tensor, int64 ``[N, T]``.

    Args:
        kind: ``pt`` for torch, ``np`` for numpy.

    Raises:
        RequestError: there is no such kind, or the rows differ in length.
    """
    if kind not in ("pt", "np"):
        raise RequestError(
            f"return_tensors is {kind!r}", "wanted pt (torch), np (numpy) or None (lists)", param="return_tensors"
        )
    if len({len(row) for row in rows}) > 1:
        raise RequestError(
            "a tensor was asked for, and the texts have different numbers of tokens",
            "give padding=True, and truncation=True with a max_length where that is too long",
            param="return_tensors",
        )
    if kind == "np":
        import numpy as np  # only where it is asked for

        return np.asarray(rows, dtype=np.int64)
    import torch

    return torch.tensor([list(row) for row in rows], dtype=torch.int64)

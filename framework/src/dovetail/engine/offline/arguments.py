"""Common arguments of the offline API's methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tqdm.auto import tqdm

from dovetail.api.errors import RequestError
from dovetail.engine.adapters.lora_request import LoRARequest
from dovetail.engine.offline.sequences import read_sequence

T = TypeVar("T")

ProgressBar = bool | Callable[..., Any]
"""Whether to show a progress bar, or a function that makes one, as tqdm does."""
LoRARequests = LoRARequest | Sequence[LoRARequest | None] | None
"""One LoRA adapter for all prompts, or one (or None) each."""


def progress_bar(use_tqdm: ProgressBar, total: int, description: str, unit: str) -> Any:
    """A progress bar that counts to ``total``, visible or not."""
    if callable(use_tqdm):
        return use_tqdm(total=total, desc=description, unit=unit)
    return tqdm(total=total, desc=description, unit=unit, disable=not use_tqdm)


def broadcast_to_prompts(what: str, given: T | Sequence[T], count: int) -> list[T]:
    """Repeat a single value for each prompt, or check that there is one for each.

    Raises:
        RequestError: the numbers differ.
    """
    found: list[T] | None = read_sequence(given, what)
    if found is None:
        return [given] * count  # type: ignore[list-item]
    if len(found) != count:
        raise RequestError(f"{len(found)} {what} were given for {count} prompts", "give one for all, or one each")
    return list(found)

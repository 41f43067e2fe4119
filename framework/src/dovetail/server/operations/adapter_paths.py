"""Checks that a LoRA adapter of a request comes from a folder or repository that the operator allowed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dovetail.server.http.errors import ApiError, describe
from dovetail.server.settings import ServerSettings

HUB_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
MAX_PATH_CHARS = 4096
"""No system has longer paths."""


def resolve_adapter_path(path: str, settings: ServerSettings) -> str:
    """Resolve the ``lora_path`` of a request.

    Returns:
        The real folder (links resolved, so that the checked path is the one that is read), or the name of a hub
            repository.

    Raises:
        ApiError: 403; it is neither in an allowed folder nor a hub repository that may be downloaded. The message does
            not say whether it exists.
    """
    if len(path) > MAX_PATH_CHARS:  # to resolve it takes the square of its length
        raise _refusal(path, settings)
    roots = [Path(root).resolve() for root in settings.allowed_adapter_path]
    if (folder := _resolve(path)) is not None and _is_within(folder, roots) and not _links_outside(folder, roots):
        return str(folder)
    if settings.allow_adapter_downloads and _is_hub_name(path):
        return path
    raise _refusal(path, settings)


def _resolve(path: str) -> Path | None:
    try:
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError):  # an invalid name, or circular links
        return None


def _is_within(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _links_outside(folder: Path, roots: Sequence[Path]) -> bool:
    """Whether a file in the folder is a link to outside. The hub's own folders consist of links, to files beside them."""
    try:
        return not all(_is_within(file.resolve(), roots) for file in folder.iterdir())
    except (OSError, RuntimeError):
        return False  # there is nothing to read, which is for the loading to say


def _is_hub_name(path: str) -> bool:
    # "." and ".." are no names, and a folder of this name would be read instead of the repository.
    return bool(HUB_NAME.fullmatch(path)) and not {".", ".."} & set(path.split("/")) and not Path(path).exists()


def _refusal(path: str, settings: ServerSettings) -> ApiError:
    if not settings.allowed_adapter_path and not settings.allow_adapter_downloads:
        allowed = "this server loads no adapters while it runs"
    else:
        hub = " and hub repositories" if settings.allow_adapter_downloads else ""
        allowed = f"this server loads adapters only from {'allowed folders' if settings.allowed_adapter_path else 'no folder'}{hub}"
    message = (
        f"lora_path is {describe(path)}, but {allowed}; its operator can allow more with --allowed-adapter-path FOLDER or "
        "--allow-adapter-downloads, or name the adapter with --lora-modules"
    )
    return ApiError(403, message, param="lora_path", code="path_not_allowed")

"""A platform's copies between host and device, made so that the platform's plugin is named if they fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dovetail.kernel.blame import Blame, blame, check_class, wrong_answer
from dovetail.kernel.discovery import import_part
from dovetail.kernel.plan_parts import Part
from dovetail.nn.platform import Platform


def open_platform(part: Part) -> Platform:
    """Open the device of the platform that the Plan names.

    Raises:
        PluginError: the platform cannot be imported, is none, fails, or has no device.
    """
    found = import_part(part, part.target)
    check_class(part, part.target, found, Platform)
    attributes = {
        "part": part,
        "uploading": blame(part, "to copy to its device (upload)", in_step=True),
        "fetching": blame(part, "to copy to the host (fetch)", in_step=True),
        "__module__": found.__module__,
        "__doc__": found.__doc__,
    }
    checked: type[Platform] = type(found)(found.__name__, (_CheckedPlatform, found), attributes)
    with blame(part, "to open its device"):
        platform = checked()
    device: Any = getattr(platform, "device", None)
    if not isinstance(device, torch.device):
        raise wrong_answer(part, "device", device, "a torch.device")
    return platform


class _CheckedPlatform:
    part: Part
    uploading: Blame
    fetching: Blame

    def upload(self, values: np.ndarray) -> Tensor:
        with self.uploading:
            found: Any = super().upload(values)  # type: ignore[misc]  # of the platform
        if not isinstance(found, Tensor):
            raise wrong_answer(self.part, "upload()", found, "a tensor")
        return found

    def fetch(self, values: Tensor) -> Callable[[], np.ndarray]:
        with self.fetching:
            found: Any = super().fetch(values)  # type: ignore[misc]
        if not callable(found):
            raise wrong_answer(self.part, "fetch()", found, "a function that waits for the copy")
        wait: Callable[[], np.ndarray] = found
        return wait

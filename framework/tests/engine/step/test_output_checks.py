"""Operations of a platform are compared with the references once for each shape of their arguments, and checked every time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dovetail.api import PluginError
from dovetail.engine.step import output_checks
from dovetail.kernel.plan_parts import Part

PART = Part(kind="platform", name="strange", distribution="strange-parts", version="1", target="strange:Platform")


def test_the_reference_runs_once_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    answers: list[Tensor] = []

    def reference(x: Tensor, scale: float, *, others: list[Tensor]) -> Tensor:
        calls.append(scale)
        return x * scale

    monkeypatch.setitem(output_checks.REFERENCES, "scaled", reference)
    checked = output_checks._check_operation("scaled", lambda *arguments, **options: answers.pop(), PART)

    def call(shape: tuple[int, ...], scale: float, answer: Tensor, other: int = 1) -> None:
        answers.append(answer)
        checked(torch.ones(shape), scale, others=[torch.ones(other)])

    for _ in range(3):
        call((2, 3), 1.0, torch.zeros(2, 3))
    assert calls == [1.0]
    call((4, 3), 1.0, torch.zeros(4, 3))
    call((4, 3), 2.0, torch.zeros(4, 3))
    call((4, 3), 2.0, torch.zeros(4, 3), other=2)
    assert calls == [1.0, 1.0, 2.0, 2.0]
    with pytest.raises(PluginError, match=r"scaled\(\).*wanted a tensor of torch.float32 \[4, 3\]"):
        call((4, 3), 2.0, torch.zeros(3, 4))

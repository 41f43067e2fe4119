"""Patterns of adapters: what PEFT's own way finds, without its time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from dovetail.nn import module_patterns
from dovetail.nn.module_patterns import ModulePatterns

MODULES = [f"model.layers.{i}.{part}" for i in (0, 1, 11) for part in ("self_attn.q_proj", "mlp.up_proj", "x-y")]
PATTERNS = [
    "q_proj",
    "proj",
    "self_attn.q_proj",
    r"self_attn\.q_proj",
    "^model.layers.1.mlp.up_proj$",
    "^q_proj",
    "layers.1.mlp.up_proj",
    "model.layers.0.x-y",
    r"layers\.\d+\.mlp\.up_proj",
    r".*\.(0|11)\..*",
    "up_proj|q_proj",
    "[qu]p?_proj",
    r"model\.layers\.1.\.mlp.*",
    "",
]


def by_peft(pattern: str, module: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_what_it_does_in_peft(pattern: str) -> None:
    found = ModulePatterns({pattern: 1}).find(MODULES)
    assert set(found) == {module for module in MODULES if by_peft(pattern, module)}


def test_the_first_pattern_that_matches_counts() -> None:
    patterns = {r".*\.0\..*": 1, "q_proj": 2, "self_attn.q_proj": 3, ".*": 4}
    found = ModulePatterns(patterns).find(MODULES[:2] + MODULES[3:5])
    assert [*found.values()] == [1, 1, 2, 4]


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("(", "no regular expression"),
        ("a)|(b", "no regular expression"),
        ("(?=a)b", "look-ahead"),
        (r"(a)\1", "backreferences"),
        (r"(\w{1000}){1000}", "size limit"),
        ("(a|b)" * 101, "505 characters, wanted at most 500"),
    ],
)
def test_what_cannot_be_run_is_refused(pattern: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        ModulePatterns({pattern: 1})
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


@pytest.mark.alone
def test_time_does_not_explode(slowness: Callable[[], float]) -> None:
    started = time.monotonic()
    found = ModulePatterns({"(a+)+b": 1, r"((\w|\.)*)*-": 2}).find(["a" * 2000, ".".join("a" * 500)])
    assert not found
    assert time.monotonic() - started < 0.5 * slowness()


def test_many_costly_patterns_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_patterns, "MAX_SECONDS", 0.05)
    with pytest.raises(ValueError, match="take more than"):
        ModulePatterns({rf"\w{{60}}\w{{60}}{i}(x)?": i for i in range(1000)}).find(MODULES)

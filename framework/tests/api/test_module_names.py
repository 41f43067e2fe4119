"""Lists of modules in quantization configurations."""

from __future__ import annotations

import time

import pytest

from dovetail.api import ConfigError, ModuleNames

NAME = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (NAME, True),
        ("model.layers.1", True),
        ("model", True),
        ("up_proj", True),
        ("mlp.up_proj", True),
        ("model.layers.10", False),
        ("model.layers", True),
        ("proj", False),
        ("layers.1", False),
        ("mlp", False),
        ("", False),
        (f"{NAME}.weight", False),
        (r"re:model\.layers\.\d+\.mlp", True),
        ("re:.*up_proj$", True),
        ("re:up_proj", False),
        ("re:model|nothing", True),
        ("re:nothing|mlp", False),
    ],
)
def test_what_an_entry_names(entry: str, found: bool) -> None:
    assert (NAME in ModuleNames([entry])) == found
    assert (NAME in ModuleNames(["lm_head", "re:lm_.*", entry])) == found


@pytest.mark.parametrize("pattern", ["(", "a)|(b", "(?=a)b", "(a|b)" * 101])
def test_what_cannot_be_run_is_refused_in_one_line(pattern: str) -> None:
    with pytest.raises(ConfigError) as failure:
        ModuleNames([f"re:{pattern}"])
    assert "quantization_config" in failure.value.hint
    assert "\n" not in str(failure.value)


def test_no_pattern_takes_long() -> None:
    begun = time.thread_time()
    assert "a" * 5000 not in ModuleNames(["re:(a+)+b"])
    assert time.thread_time() - begun < 1

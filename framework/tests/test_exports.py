"""What ``from dovetail import …`` and ``from dovetail.api import …`` offer, and what the first costs."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import dovetail
import dovetail.api


@pytest.mark.parametrize("name", dovetail.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(dovetail, name)


@pytest.mark.parametrize("name", dovetail.api.__all__)
def test_every_name_of_the_api_is_there(name: str) -> None:
    assert getattr(dovetail.api, name) is not None


@pytest.mark.parametrize("module", [dovetail, dovetail.api], ids=lambda m: m.__name__)
def test_dir_lists_every_name(module: ModuleType) -> None:
    """In a new process: here others have imported what the names stand for."""
    code = f"import {module.__name__} as module; print(*dir(module))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert set(module.__all__) <= set(done.stdout.split()), done.stderr


def test_names_that_are_not_there_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'LLLM'"):
        _ = dovetail.LLLM
    with pytest.raises(AttributeError, match="no attribute 'Crad'"):
        _ = dovetail.api.Crad


CHEAP = """
import sys
from dovetail import BeamSearchParams, EngineArgs, SamplingParams, StructuredOutputs
from dovetail.utils import FlexibleArgumentParser
EngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(["--max_model_len", "4k"])
print([name for name in ("torch", "transformers", "tokenizers", "numpy", "yaml") if name in sys.modules])
"""


def test_a_script_that_only_reads_its_options_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", CHEAP], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr

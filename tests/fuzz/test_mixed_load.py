"""A server under minutes of mixed load: it answers ``/health`` at once, and its memory does not grow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from ..serving import serving
from ..tiny import write_checkpoint
from .mixed_load import run_load

MEGABYTES, ENGINE_MEGABYTES = 40, 400
"""Growth that is no leak: heaps have holes, and the engine may be compiling hostile grammars when it is measured."""


@pytest.mark.sweep
@pytest.mark.alone
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("minutes", [3])
def test_mixed_load(tmp_path: Path, slowness: Callable[[], float], minutes: int) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    # A cache of few blocks, all of which are used within the first minute; a host gives it memory on first use.
    options = ("--chat-template", template, "--max-stored-responses", "50", "--num-gpu-blocks-override", "1000")
    with serving(str(folder), *options) as server:
        seen = asyncio.run(run_load(server.url, server.process.pid, minutes))
        assert seen.longest_health < 1.0 * slowness(), seen
        assert 500 not in seen.statuses, seen
        assert not seen.unexpected, seen
        growth = seen.growth()
        assert growth.pop("dovetail.engine.process.engine_process") < ENGINE_MEGABYTES, seen
        assert max(growth.values()) < MEGABYTES, seen
        assert not any("Traceback" in line for line in server.log), server.log

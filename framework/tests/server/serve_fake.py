"""Runs the real server over the fake engine, in a process of its own: the arguments are the settings in JSON, and a mood."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from server_fakes import FakeEngine

from dovetail.api.errors import DovetailError
from dovetail.engine.request.outputs import Delta
from dovetail.server.processes.run import serve
from dovetail.server.settings import ServerSettings


class MoodyEngine(FakeEngine):
    mortal = False
    """Whether it dies while it answers."""

    def generate(self, *args: Any, **kwargs: Any) -> AsyncGenerator[list[Delta], None]:
        if self.mortal:
            asyncio.get_running_loop().call_later(0.3, self.die)
        return super().generate(*args, **kwargs)

    async def stop(self) -> None:
        await super().stop()
        print("stopped", flush=True)


async def make() -> FakeEngine:
    print("loading", flush=True)
    global made
    made += 1
    if mood == "slow" or (mood == "slow again" and made == 2):
        await asyncio.sleep(60)
    if mood == "broken" or (mood == "broken again" and made == 2):
        raise DovetailError("the model is broken", "take another")
    engine = MoodyEngine(delay=0.02, words=("word ",) * 10_000, max_model_len=100_000)
    engine.mortal = mood == "dies" or (mood != "well" and made == 1)
    return engine


mood, made = sys.argv[2], 0
try:
    sys.exit(serve(make, ServerSettings.model_validate_json(sys.argv[1])))
except DovetailError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)

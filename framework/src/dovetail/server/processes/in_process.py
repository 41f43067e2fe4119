"""The application without a socket, for requests from the same process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2

from dovetail.api.errors import DovetailError, EngineDeadError
from dovetail.server.app import build_app
from dovetail.server.processes.engine_supervision import MakeEngine, SupervisedEngine
from dovetail.server.rendering.pool import TemplatePool
from dovetail.server.settings import ServerSettings


@asynccontextmanager
async def serve_in_process(make_engine: MakeEngine, settings: ServerSettings) -> AsyncIterator[httpx2.AsyncClient]:
    """Context manager: a client of a server in this process, with the routes and checks of ``dovetail serve``.

    Args:
        make_engine: loads the model; called again when the engine has died.

    Raises:
        DovetailError: the engine cannot be made.
        EngineDeadError: it ended while serving, and so did its replacement; in place of what the client made of that.
    """
    with TemplatePool(settings) as templates:
        engine = SupervisedEngine(await make_engine(), make_engine)
        templates.use(engine.tokenizer)
        try:
            transport = httpx2.ASGITransport(build_app(engine, settings, renderer=templates))
            async with httpx2.AsyncClient(transport=transport, base_url="http://in-process", timeout=None) as client:
                yield client
        except DovetailError as error:
            if engine.alive or engine.restarting:
                raise
            raise EngineDeadError(f"the engine ended while serving: {await engine.ended()}") from error
        finally:
            await engine.stop()

"""``dovetail serve [MODEL]``."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from dovetail.cli.connection import find_model_name
from dovetail.cli.loading_bar import LoadingBar
from dovetail.cli.parsing.foreign import say_notices, say_variables
from dovetail.engine.args import EngineArgs
from dovetail.utils import logs
from dovetail.utils.arguments import use_foreign_options
from dovetail.utils.config_file import add_config_flag
from dovetail.utils.flags import add_flags, read_flags

if TYPE_CHECKING:
    from dovetail.engine.process.async_engine import AsyncEngine
    from dovetail.engine.process.engine_client import EngineClient
    from dovetail.kernel.plan import Plan
    from dovetail.server.settings import ServerSettings

L = TypeVar("L", bound="EngineClient")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from dovetail.server.settings import ServerSettings

    parser.add_argument("model", nargs="?", default=None, help=EngineArgs.model_fields["model"].description)
    parser.add_argument("--model", dest="model_flag", default=None, help=argparse.SUPPRESS)
    add_config_flag(parser)
    add_flags(parser, EngineArgs, "engine", skip=("model",))
    add_flags(parser, ServerSettings, "server")
    use_foreign_options(parser, "serve")


def run(args: argparse.Namespace) -> int:
    from dovetail.server.settings import ServerSettings

    args.model = find_model_name(args)
    engine_args, settings = read_flags(EngineArgs, args), read_flags(ServerSettings, args)
    logs.configure(settings.log_format, settings.log_level, config_file=settings.log_config_file)
    logs.show_tracebacks(args.debug)
    say_notices(args)
    say_variables()
    return _serve(engine_args, settings) if settings.api_server_count == 1 else _serve_processes(engine_args, settings)


def _serve(args: EngineArgs, settings: ServerSettings) -> int:
    from dovetail.server.processes.run import serve

    return serve(engine_factory(args), settings)


def _serve_processes(args: EngineArgs, settings: ServerSettings) -> int:
    from dovetail.engine.setup import make_plan
    from dovetail.server.processes.hub import serve_processes
    from dovetail.server.processes.relay import RelayedEngine
    from dovetail.server.tools.output_parsing import check_parsers

    plan = make_plan(args)
    check_parsers(plan)
    return serve_processes(link_factory(RelayedEngine, plan, args), settings, plan, args)


def engine_factory(args: EngineArgs) -> Callable[[], Awaitable[AsyncEngine]]:
    """Return a function that loads the model and logs the result. It may be called again to reload.

    Raises:
        DovetailError: the options do not resolve, or a parser that they name cannot be imported.
    """
    from dovetail.engine.process.async_engine import AsyncEngine
    from dovetail.engine.setup import make_plan
    from dovetail.server.tools.output_parsing import check_parsers

    plan = make_plan(args)
    check_parsers(plan)
    return link_factory(AsyncEngine, plan, args)


def link_factory(kind: type[L], plan: Plan, args: EngineArgs) -> Callable[[], Awaitable[L]]:
    """Like :func:`engine_factory`, for an existing Plan and any handle of the engine's process."""

    async def make_engine() -> L:
        with LoadingBar(plan) as bar:
            engine = await kind.start(plan, args, bar)
        for line in (bar.summary(), *describe(engine).splitlines()):
            logs.announce(line)
        return engine

    return make_engine


def describe(engine: EngineClient) -> str:
    """Describe the engine in two lines: device, dtype, context; and how memory is divided."""
    info, plan = engine.info, engine.plan
    assert info is not None
    kernels = ", ".join(f"{name} ×{layers}" for name, layers in info.kernels.items())
    shortened = (
        "" if info.max_model_len == plan.max_model_len else f" (of {plan.max_model_len}: all that the KV cache holds)"
    )
    return (
        f"{plan.architecture} on {info.device} in {plan.dtype} ({kernels}), context {info.max_model_len} tokens{shortened}, "
        f"up to {info.max_num_seqs} sequences at once\nmemory: {info.budget}"
    )

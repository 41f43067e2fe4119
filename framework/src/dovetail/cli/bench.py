"""``dovetail bench serve | latency | throughput | startup``."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from dovetail.api.errors import UsageError
from dovetail.cli.connection import (
    add_engine_flags,
    add_model,
    add_server_flags,
    connect_server,
    find_model_name,
    start_server,
)
from dovetail.cli.parsing.foreign import say_variables
from dovetail.engine.args import EngineArgs
from dovetail.utils.arguments import use_foreign_options
from dovetail.utils.flags import add_flags, read_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from dovetail.client.bench.options import LatencyOptions, ServeOptions, StartupOptions, ThroughputOptions

    actions = parser.add_subparsers(dest="action", required=True, metavar="BENCHMARK", title="benchmarks")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    serve = actions.add_parser("serve", parents=[shared], help="many streams at once, on any server with OpenAI's API")
    add_server_flags(serve, "--base-url")
    add_flags(serve, ServeOptions, "benchmark")
    serve.add_argument(
        "--goodput",
        nargs="+",
        default=[],
        metavar="METRIC:MS",
        help="also count the requests that keep to these limits of ttft, tpot and e2el, such as ttft:200 tpot:50",
    )
    add_engine_flags(serve)
    use_foreign_options(serve, "bench")
    for name, options, text in (
        ("latency", LatencyOptions, "how long one batch takes, in the engine alone"),
        ("throughput", ThroughputOptions, "tokens a second of many prompts, in the engine alone"),
        ("startup", StartupOptions, "seconds from a server's start to its first token"),
    ):
        action = actions.add_parser(name, parents=[shared], help=text)
        add_model(action)
        add_flags(action, options, "benchmark")
        add_flags(action, EngineArgs, "engine", skip=("model",))
        use_foreign_options(action, "bench")


def run(args: argparse.Namespace) -> int:
    args.model = find_model_name(args)
    actions = {"serve": _serve, "latency": _latency, "throughput": _throughput, "startup": _startup}
    return actions[args.action](args)


def _serve(args: argparse.Namespace) -> int:
    from dovetail.client.bench.options import ServeOptions, read_goodput

    if find_spec("aiohttp") is None:
        raise UsageError("bench serve needs aiohttp, which is not installed", "pip install 'dovetail[bench]'")
    from dovetail.client.bench.serve import run_serve

    options, goodput = read_flags(ServeOptions, args), read_goodput(args.goodput)
    options.check()
    with connect_server(args) as server:
        return run_serve(server.url, server.model, server.api_key, options, goodput)


def _latency(args: argparse.Namespace) -> int:
    from dovetail.client.bench.offline import run_latency
    from dovetail.client.bench.options import LatencyOptions

    say_variables()
    return run_latency(read_flags(EngineArgs, args), read_flags(LatencyOptions, args))


def _throughput(args: argparse.Namespace) -> int:
    from dovetail.client.bench.offline import run_throughput
    from dovetail.client.bench.options import ThroughputOptions

    say_variables()
    return run_throughput(read_flags(EngineArgs, args), read_flags(ThroughputOptions, args))


def _startup(args: argparse.Namespace) -> int:
    from dovetail.client.bench.options import StartupOptions
    from dovetail.client.bench.startup import run_startup

    engine = read_flags(EngineArgs, args)
    return run_startup(lambda: start_server(engine, debug=args.debug), read_flags(StartupOptions, args))

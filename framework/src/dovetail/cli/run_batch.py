"""``dovetail run-batch -i FILE -o FILE [MODEL]``: runs a file of requests on a model, or on a running server."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from dovetail.api.errors import UsageError
from dovetail.cli.connection import add_server_flags, find_api_key, find_model_name, refuse_key, refuse_with_url
from dovetail.cli.parsing.foreign import say_variables
from dovetail.engine.args import OFFLINE_DEFAULTS, EngineArgs
from dovetail.utils.arguments import use_foreign_options
from dovetail.utils.flags import add_flags, read_flags

if TYPE_CHECKING:
    import httpx2

    from dovetail.client.batch import Tally

ANSWER_SETTINGS = (
    "served_model_name",
    "enable_auto_tool_choice",
    "exclude_tools_when_tool_choice_none",
    "default_chat_template_kwargs",
    "return_tokens_as_token_ids",
    "response_role",
    "trust_request_chat_template",
    "chat_template_timeout",
    "ignore_unsupported_parameters",
    "strict_parameters",
    "max_request_bytes",
    "max_request_choices",
)
"""Settings of the server that change responses."""
REMOTE_CONCURRENCY = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from dovetail.server.settings import ServerSettings

    parser.add_argument(
        "-i", "--input-file", required=True, metavar="FILE", help="requests, one JSON object a line; - for a pipe"
    )
    parser.add_argument(
        "-o", "--output-file", required=True, metavar="FILE", help="where the answers go, as they come; - for a pipe"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with an output that is there: run what was not served yet"
    )
    parser.add_argument(
        "--max-concurrency",
        type=int,
        default=None,
        metavar="N",
        help=f"requests at once (default: twice --max-num-seqs, so that some always wait; {REMOTE_CONCURRENCY} with --url)",
    )
    add_server_flags(parser)
    add_flags(parser, EngineArgs, "engine (without --url)", skip=("model",))
    add_flags(
        parser, ServerSettings, "answers (without --url)", skip=set(ServerSettings.model_fields) - set(ANSWER_SETTINGS)
    )
    use_foreign_options(parser, "batch")


def run(args: argparse.Namespace) -> int:
    from dovetail.client.batch import Tally

    args.model = find_model_name(args)
    _check(args)
    # What asks a job to end does so as Ctrl+C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    tally = Tally()
    try:
        asyncio.run(_run(args, tally))
    except KeyboardInterrupt:
        print(f"stopped: {_render_state(args, tally)}", file=sys.stderr)
        return 130
    except BaseException:
        if tally.served or tally.failed:
            print(f"ended early: {_render_state(args, tally)}", file=sys.stderr)
        raise
    print(f"{_render_state(args, tally, ended=True)}", file=sys.stderr)
    return 1 if tally.failed else 0


def _check(args: argparse.Namespace) -> None:
    for flag, name in (("-i", args.input_file), ("-o", args.output_file)):
        if "://" in name:
            raise UsageError(
                f"{flag} {name} is a URL, and a batch, which may take days, does not depend on a connection",
                "name a file of this machine, or - for a pipe",
            )
    if args.input_file == args.output_file != "-":
        raise UsageError(f"input and output are the same file, {args.input_file}", "name another after -o")
    if args.max_concurrency is not None and args.max_concurrency < 1:
        raise UsageError(f"--max-concurrency is {args.max_concurrency}", "give 1 or more")
    if args.url:
        refuse_with_url(args, set(EngineArgs.model_fields) - {"model"} | set(ANSWER_SETTINGS))
        if args.model:
            raise UsageError(f"--url and the model {args.model} were given", "lines name the server's model themselves")
    else:
        refuse_key(args)


async def _run(args: argparse.Namespace, tally: Tally) -> None:
    from tqdm import tqdm

    from dovetail.client.batch import Batch
    from dovetail.client.batch_file import BatchInput, BatchOutput, read_requests

    source = BatchInput(args.input_file)
    output = BatchOutput(args.output_file, args.resume)
    left = source.count - len(output.done)
    concurrency = args.max_concurrency or (REMOTE_CONCURRENCY if args.url else 2 * _engine_args(args).max_num_seqs)
    try:
        if left <= 0:
            return
        async with _client(args) as client:
            with tqdm(desc="Batch", total=left, unit="line", disable=not sys.stderr.isatty()) as bar:
                batch = Batch(client, output, tally, bar.update)
                await batch.run(read_requests(source, output.done), min(concurrency, left))
    finally:
        output.close()


def _engine_args(args: argparse.Namespace) -> EngineArgs:
    # Nobody reads along here either.
    return read_flags(EngineArgs, argparse.Namespace(**{**OFFLINE_DEFAULTS, **vars(args)}))


@contextlib.asynccontextmanager
async def _client(args: argparse.Namespace) -> AsyncIterator[httpx2.AsyncClient]:
    if args.url:
        import httpx2

        from dovetail.client.http import http_options, server_root

        root = server_root(args.url)
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=root, limits=limits, **http_options(root, find_api_key(args))) as client:
            yield client
        return
    from dovetail.cli.serve import engine_factory
    from dovetail.server.processes.in_process import serve_in_process
    from dovetail.server.settings import ServerSettings
    from dovetail.utils import logs

    logs.show_tracebacks(args.debug)
    say_variables()
    # --api-key is for the server at --url; only this process uses the one here.
    answers = argparse.Namespace(**{name: value for name, value in vars(args).items() if name in ANSWER_SETTINGS})
    async with serve_in_process(engine_factory(_engine_args(args)), read_flags(ServerSettings, answers)) as client:
        yield client


def _render_state(args: argparse.Namespace, tally: Tally, ended: bool = False) -> str:
    lines = [f"lines served: {tally.served}, failed: {tally.failed}"]
    lines += [f"  {fault}" for fault in tally.faults]
    if more := tally.failed - len(tally.faults):
        lines.append(f"  and {more} more")
    if args.output_file != "-" and (tally.failed or not ended):
        rest = "tries the failed ones again" if ended else "runs the rest"
        lines.append(f"{args.output_file} has what was done; the same command with --resume {rest}")
    return "\n".join(lines)

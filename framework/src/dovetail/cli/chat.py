"""``dovetail chat [MODEL]``: a chat in the terminal, with a server that is there or with one of its own."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from dovetail.engine.args import EngineArgs
from dovetail.server.settings import API_KEY_VARIABLE
from dovetail.utils.flags import add_flags, read_flags

PARAMETERS = {"temperature": float, "top_p": float, "top_k": int, "max_tokens": int, "seed": int}
"""Sampling parameters that have a flag here."""
STOP_SECONDS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default=None, help=EngineArgs.model_fields["model"].description)
    parser.add_argument("--url", default=None, help="talk to the server at this URL instead of starting a model")
    parser.add_argument(
        "--api-key", default=None, help=f"that the server at --url wants (default: ${API_KEY_VARIABLE})"
    )
    parser.add_argument("--system", default=None, help="the system prompt")
    for name, kind in PARAMETERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=None, help=f"{name} of every answer")
    # The seed here is the answers' own.
    add_flags(parser, EngineArgs, "engine (without --url)", skip=("model", "seed"))


def run(args: argparse.Namespace) -> int:
    from dovetail.client.chat import run_chat

    parameters = {name: getattr(args, name) for name in PARAMETERS}
    if args.url:
        key = args.api_key or os.environ.get(API_KEY_VARIABLE)
        return run_chat(args.url, args.model, key, args.system, **parameters)
    seedless = argparse.Namespace(**{k: v for k, v in vars(args).items() if k != "seed"})
    with own_server(read_flags(EngineArgs, seedless)) as url:
        return run_chat(url, None, None, args.system, **parameters)


@contextlib.contextmanager
def own_server(args: EngineArgs) -> Iterator[str]:
    """The URL of a server on a free loopback port, for as long as the context lasts.

    Raises:
        SystemExit: it did not start, and has said why itself; with its exit code.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for number in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal among them: the server must not outlive us
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    command = [sys.executable, "-m", "dovetail", "serve", "--port", str(port), "--exit-with-stdin", *as_flags(args)]
    # The pipe to it closes with us, however we go. In a session of its own, so that Ctrl+C stops an answer and not the server.
    environment = {k: v for k, v in os.environ.items() if k != API_KEY_VARIABLE}  # which would close it to us
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True, env=environment
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _await(url, server)
        yield url
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()


def _await(url: str, server: subprocess.Popen[bytes]) -> None:
    import httpx

    while server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise SystemExit(server.returncode or 1)


def as_flags(args: EngineArgs) -> list[str]:
    """The command line that gives these options again: those that differ from their defaults."""
    import json

    flags: list[str] = [] if args.model is None else [args.model]
    for name in sorted(args.model_fields_set - {"model"}):
        value = getattr(args, name)
        if value == EngineArgs.model_fields[name].get_default(call_default_factory=True):
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        flags.append(f"--{flag}")
        if isinstance(value, list):
            flags += map(str, value)
        else:
            flags.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return flags

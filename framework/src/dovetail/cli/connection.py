"""The server that a command uses: a running one (``--url``), or one that the command starts."""

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
from dataclasses import dataclass

from dovetail.api.errors import UsageError
from dovetail.api.text import quote_foreign
from dovetail.engine.args import EngineArgs
from dovetail.python_path import child_environment, python_command
from dovetail.server.settings import API_KEY_VARIABLE, FOREIGN_KEY_VARIABLE
from dovetail.utils.flags import add_flags, read_flags
from dovetail.utils.terminal import say

PARAMETERS = {"temperature": float, "top_p": float, "top_k": int, "max_tokens": int, "seed": int}
"""Sampling parameters with a flag, in the commands that generate text."""
STOP_SECONDS = 10
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class ServerConnection:
    """How to reach a server.

    Attributes:
        model: its name there; the server's first one if None.
        api_key: if the server requires one.
    """

    url: str
    model: str | None = None
    api_key: str | None = None


def add_server_flags(parser: argparse.ArgumentParser, *spellings: str) -> None:
    """Add the flags that :func:`connect_server` and :func:`find_api_key` read. Those of the engine are added by
    :func:`add_engine_flags`.

    Args:
        spellings: other names of ``--url``.
    """
    add_model(parser)
    parser.add_argument(
        "--url",
        *spellings,
        dest="url",
        default=None,
        help="talk to the server at this URL instead of starting a model",
    )
    parser.add_argument(
        "--api-key", default=None, help=f"that the server at --url wants (default: ${API_KEY_VARIABLE})"
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the model argument, which :func:`find_model_name` reads."""
    parser.add_argument("model", nargs="?", default=None, help=EngineArgs.model_fields["model"].description)
    parser.add_argument("--model", dest="model_flag", default=None, help=argparse.SUPPRESS)


def add_parameter_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of :data:`PARAMETERS`."""
    for name, kind in PARAMETERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=None, help=f"{name} of every answer")


def read_parameters(args: argparse.Namespace) -> dict[str, float | int | None]:
    """Read the flags of :func:`add_parameter_flags`."""
    return {name: getattr(args, name) for name in PARAMETERS}


def add_engine_flags(parser: argparse.ArgumentParser, short: bool = True) -> None:
    """Add the engine's options, except ``--seed``, which is the command's own.

    Args:
        short: with their short spellings.
    """
    add_flags(parser, EngineArgs, "engine (without --url)", skip=("model", "seed"), short=short)


@contextlib.contextmanager
def connect_server(args: argparse.Namespace) -> Iterator[ServerConnection]:
    """Context manager: the server at ``--url``, or a server that runs as long as the context.

    Raises:
        UsageError: options of the engine were given together with a URL, or a key without one.
        SystemExit: the started server failed and has printed the reason; with its exit code.
    """
    if args.url:
        refuse_with_url(args, set(EngineArgs.model_fields) - {"model", "seed"})
        yield ServerConnection(args.url, args.model, find_api_key(args))
        return
    refuse_key(args)
    seedless = argparse.Namespace(**{k: v for k, v in vars(args).items() if k != "seed"})
    with start_server(read_flags(EngineArgs, seedless), debug=args.debug) as url:
        yield ServerConnection(url)


def refuse_with_url(args: argparse.Namespace, names: set[str]) -> None:
    """Refuse options that the server at ``--url`` decides itself.

    Raises:
        UsageError: one of the options was given.
    """
    if given := sorted(names & vars(args).keys()):
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{flags} cannot change the server at --url", "give one or the other")


def refuse_key(args: argparse.Namespace) -> None:
    """Refuse a key without ``--url``.

    Raises:
        UsageError: a key was given, and there is no server that needs it.
    """
    if args.api_key:
        raise UsageError("--api-key is for the server at --url, and there is none", "give both, or neither")


def find_model_name(args: argparse.Namespace, hint: str = "name one") -> str | None:
    """The model, given as a positional argument or with ``--model`` (``model_flag``).

    Args:
        hint: what to do where two were given.

    Raises:
        UsageError: two models were given.
    """
    model: str | None = args.model or args.model_flag
    if args.model_flag and args.model_flag != model:
        raise UsageError(f"two models were named, {model} and --model {args.model_flag}", hint)
    return model


@contextlib.contextmanager
def explain_model(args: argparse.Namespace, hint: str) -> Iterator[None]:
    """Context manager around :func:`connect_server`: if the model that should be started is no path or repository, and may
    be a text that was meant for it, say so after the server's error.

    Args:
        hint: how the text is given.
    """
    try:
        yield
    except SystemExit as leaving:
        model: str | None = args.model
        if leaving.code and model and args.prompt is None and "/" not in model and not os.path.exists(model):
            say(f"note: {quote_foreign(model)} stands where the model belongs; {hint}")
        raise


def find_api_key(args: argparse.Namespace) -> str | None:
    """The API key for the server at ``--url``."""
    return args.api_key or os.environ.get(API_KEY_VARIABLE) or os.environ.get(FOREIGN_KEY_VARIABLE)


@contextlib.contextmanager
def start_server(args: EngineArgs, *, debug: bool = False) -> Iterator[str]:
    """Context manager: start a server on a free loopback port, and return its URL.

    Args:
        debug: it shows tracebacks.

    Raises:
        SystemExit: it did not start, and has printed the reason; with its exit code.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for number in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal among them: the server must not outlive us
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    flags = ["--port", str(port), "--exit-with-stdin", *build_flags(args)]
    flags += ["--log-level", "warning"]  # log lines about requests would be mixed with the answers
    flags += ["--debug"] * debug
    # The pipe to it closes when this process ends in any way. It has its own session, so that Ctrl+C stops an answer
    # and not the server. Which would close it to us.
    environment = {k: v for k, v in child_environment().items() if k not in (API_KEY_VARIABLE, FOREIGN_KEY_VARIABLE)}
    server = subprocess.Popen(
        python_command("-m", "dovetail", "serve", *flags),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env=environment,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_healthy(url, server)
        yield url
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes]) -> None:
    import httpx2

    with httpx2.Client(trust_env=False) as client:
        while server.poll() is None:
            with contextlib.suppress(httpx2.TransportError):
                if client.get(f"{url}/health").status_code == 200:
                    return
            time.sleep(POLL_SECONDS)
    raise SystemExit(server.returncode or 1)


def build_flags(args: EngineArgs) -> list[str]:
    """The command line for these options: those that differ from their defaults."""
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

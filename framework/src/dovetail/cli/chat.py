"""``dovetail chat [MODEL]``: a chat in the terminal, with a server that is there or with one of its own."""

from __future__ import annotations

import argparse

from dovetail.cli.connection import (
    add_engine_flags,
    add_parameter_flags,
    add_server_flags,
    connect_server,
    read_parameters,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_server_flags(parser)
    parser.add_argument("--system", default=None, help="the system prompt")
    add_parameter_flags(parser)
    add_engine_flags(parser)


def run(args: argparse.Namespace) -> int:
    from dovetail.client.chat import run_chat

    with connect_server(args) as server:
        return run_chat(server.url, server.model, server.api_key, args.system, **read_parameters(args))

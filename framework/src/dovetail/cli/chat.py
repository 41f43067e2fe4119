"""``dovetail chat [MODEL]``: a chat in the terminal, with a running server or one that the command starts."""

from __future__ import annotations

import argparse

from dovetail.cli.connection import (
    add_engine_flags,
    add_parameter_flags,
    add_server_flags,
    connect_server,
    find_model_name,
    read_parameters,
)
from dovetail.utils.arguments import use_foreign_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_server_flags(parser)
    parser.add_argument("--system", default=None, help="the system prompt")
    parser.add_argument("--prompt", default=None, help="ask this alone, and leave")
    add_parameter_flags(parser)
    add_engine_flags(parser, short=False)
    use_foreign_options(parser, "chat")


def run(args: argparse.Namespace) -> int:
    from dovetail.client.chat import run_chat

    args.model = find_model_name(args)
    with connect_server(args) as server:
        return run_chat(server.url, server.model, server.api_key, args.system, args.prompt, **read_parameters(args))

"""``dovetail complete [MODEL]``: continues one text in the terminal, with a running server or one that the command
starts.
"""

from __future__ import annotations

import argparse

from dovetail.cli.connection import (
    add_engine_flags,
    add_parameter_flags,
    add_server_flags,
    connect_server,
    explain_model,
    find_model_name,
    read_parameters,
)
from dovetail.utils.arguments import use_foreign_options

TEXT_HINT = "the text to continue is given with --prompt"
"""For who gives it as an argument, where the model belongs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_server_flags(parser)
    parser.add_argument("--prompt", default=None, help="the text to continue (default: what comes on standard input)")
    add_parameter_flags(parser)
    add_engine_flags(parser, short=False)
    use_foreign_options(parser, "chat")
    parser.set_defaults(unknown_hint=TEXT_HINT)


def run(args: argparse.Namespace) -> int:
    from dovetail.client.complete import run_completion

    args.model = find_model_name(args, hint=f"name one; {TEXT_HINT}")
    with explain_model(args, TEXT_HINT), connect_server(args) as server:
        return run_completion(server.url, args.prompt, server.model, server.api_key, **read_parameters(args))

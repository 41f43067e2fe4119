"""Entry point of the command line: finds the command, and turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Collection, Sequence
from importlib import import_module

from dovetail.api.errors import DovetailError, UsageError
from dovetail.cli.parsing.parser import CommandParser
from dovetail.python_path import leave_working_directory
from dovetail.utils.terminal import NO_ROOM, discard_output, printable_line, say

COMMANDS = {
    "serve": "serve a model over HTTP, with OpenAI's API",
    "chat": "talk to a model in the terminal",
    "complete": "continue a text in the terminal",
    "run-batch": "answer a file of requests, in OpenAI's batch form",
    "bench": "measure servers and the engine",
    "plan": "show what would run a model, and why, without running it",
    "plugins": "list, show, examine and create plugins",
    "completion": "print a script with which a shell completes commands and options",
}
"""Each command is a module of this package (``_`` for ``-``) with ``add_arguments(parser)`` and ``run(args) ->
int``, imported only when it is called.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 1 for an error, or 2 for wrong usage."""
    if argv is None:  # this process is the command's
        leave_working_directory()
        argv = sys.argv[1:]
    argv = list(argv)
    debug = "--debug" in argv
    command = next((a for a in argv if not a.startswith("-")), None)
    try:
        code = _run(argv, command)
        sys.stdout.flush()  # while what fails can still be told
        return code
    except DovetailError as error:
        if debug:
            traceback.print_exception(error)
        say(f"error: {printable_line(' '.join(str(error).split()))}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has left, `| head` for one
        sys.stderr.close()
        return 141
    except OSError as error:
        if error.filename is not None or error.errno not in NO_ROOM:
            raise
        say(f"error: the output cannot be written: {error.strerror}")
        discard_output(sys.stdout)
        return 1


def build_parser(complete: Collection[str]) -> CommandParser:
    """The parser of all commands. One may set the default ``unknown_hint``: what to do about words that no argument takes.

    Args:
        complete: the commands that also get their arguments; their modules are imported for that.
    """
    parser = CommandParser(prog="dovetail", description="Run and serve large language models; every part is a plugin.")
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, text in COMMANDS.items():
        sub = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
        if name in complete:
            module = import_module(f"dovetail.cli.{name.replace('-', '_')}")
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser


def _run(argv: list[str], command: str | None) -> int:
    parser = build_parser((command,) if command else ())
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        prog = f"dovetail {args.command}" if args.command else "dovetail"
        from dovetail.cli.parsing.foreign import show_unknown

        hint = f"see {prog} --help"
        if not all(word.startswith("-") for word in unknown) and (meant := getattr(args, "unknown_hint", None)):
            hint = f"{meant}; {hint}"
        raise UsageError(f"unknown arguments: {show_unknown(unknown, parser, args)}", hint)
    if args.version:
        from importlib.metadata import version

        print(version("dovetail"))
        return 0
    if args.command is None:
        parser.print_help()
        return 2
    if args.command != "serve" and hasattr(args, "notices"):  # a server knows first how it logs
        from dovetail.cli.parsing.foreign import say_notices

        say_notices(args)
    code: int = args.run(args)
    return code


if __name__ == "__main__":
    sys.exit(main())

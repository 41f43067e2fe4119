"""Messages about options and environment variables of other engines."""

from __future__ import annotations

import argparse

from dovetail.utils import logs


def say_notices(args: argparse.Namespace) -> None:
    """Print the notices about options that need nothing here."""
    for notice in dict.fromkeys(getattr(args, "notices", ())):
        logs.announce(f"note: {notice}")


def say_variables() -> None:
    """Print the equivalents of vLLM's environment variables that are set, in commands that run an engine in this
    process.
    """
    from dovetail.utils.foreign.variables import variable_notices

    for notice in variable_notices():
        logs.announce(f"note: {notice}")


def show_unknown(unknown: list[str], parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """The text about unknown arguments, with the flags that may have been meant."""
    from dovetail.utils.foreign.command_line import CommandLine
    from dovetail.utils.foreign.tables_by_command import find_table

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and (chosen := getattr(args, action.dest, None)):
            return show_unknown(unknown, action.choices[chosen], args)
    line = CommandLine(parser, find_table(getattr(parser, "foreign", None)))
    return " ".join(a + line.near(a[2:].partition("=")[0]) if a.startswith("--") else a for a in unknown)

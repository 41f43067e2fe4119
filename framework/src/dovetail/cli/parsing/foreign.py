"""What commands say of options and variables of other engines."""

from __future__ import annotations

import argparse

from dovetail.utils import logs
from dovetail.utils.foreign.command_line import CommandLine
from dovetail.utils.foreign.option import Table
from dovetail.utils.foreign.variables import variable_notices


def say_notices(args: argparse.Namespace) -> None:
    """Say what became of options that needed nothing."""
    for notice in dict.fromkeys(getattr(args, "notices", ())):
        logs.announce(f"note: {notice}")


def say_variables() -> None:
    """Say what vLLM's variables that are set would be here; of commands that run an engine in this process."""
    for notice in variable_notices():
        logs.announce(f"note: {notice}")


def show_unknown(unknown: list[str], parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """Arguments that nobody knows, with the flags that may have been meant."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and (chosen := getattr(args, action.dest, None)):
            return show_unknown(unknown, action.choices[chosen], args)
    line = CommandLine(parser, getattr(parser, "foreign", None) or Table())
    return " ".join(a + line.near(a[2:].partition("=")[0]) if a.startswith("--") else a for a in unknown)

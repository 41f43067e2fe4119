"""Finds a parser's flags in any spelling."""

from __future__ import annotations

import argparse


def find_flag(parser: argparse.ArgumentParser, flag: str) -> str | None:
    """The flag as it was added, whether it is written with hyphens or underscores here."""
    known = parser._option_string_actions
    if flag in known:
        return flag
    wanted = flag.replace("_", "-")
    return next((own for own in known if own.replace("_", "-") == wanted), None)


def find_positional(parser: argparse.ArgumentParser, name: str) -> argparse.Action | None:
    """The positional argument of that name."""
    wanted = name.replace("-", "_")
    return next((a for a in parser._actions if not a.option_strings and a.dest == wanted), None)

"""Which options of other engines each command takes."""

from __future__ import annotations

from typing import Literal

from dovetail.utils.foreign.candle_vllm import CANDLE_ENGINE, CANDLE_SERVER
from dovetail.utils.foreign.option import Table
from dovetail.utils.foreign.vllm_engine import ENGINE
from dovetail.utils.foreign.vllm_server import BATCH, BENCH, CHAT, SCRIPT, SERVER

SCRIPT_OPTIONS = Table(ENGINE, SCRIPT)
"""Keyword arguments of ``LLM`` and ``EngineArgs``, and a script's own command line."""
SERVE_OPTIONS = Table(CANDLE_ENGINE, CANDLE_SERVER, ENGINE, SERVER)
CHAT_OPTIONS = Table(CANDLE_ENGINE, ENGINE, CHAT)
BATCH_OPTIONS = Table(CANDLE_ENGINE, ENGINE, SERVER, BATCH)
BENCH_OPTIONS = Table(CANDLE_ENGINE, ENGINE, BENCH)

Command = Literal["script", "serve", "chat", "batch", "bench"]
_TABLES: dict[Command, Table] = {
    "script": SCRIPT_OPTIONS,
    "serve": SERVE_OPTIONS,
    "chat": CHAT_OPTIONS,
    "batch": BATCH_OPTIONS,
    "bench": BENCH_OPTIONS,
}


def find_table(command: Command | None) -> Table:
    """The table of a command; an empty one for None."""
    return Table() if command is None else _TABLES[command]

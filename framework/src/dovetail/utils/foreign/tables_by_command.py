"""Which options of other engines each command takes."""

from __future__ import annotations

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

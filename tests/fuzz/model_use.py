"""What a user does with a model's files, in one process: plan, tokenizer, weights, one step of the engine."""

from __future__ import annotations

import functools
from pathlib import Path

from dovetail.engine.args import EngineArgs
from dovetail.engine.setup import load_tokenizer
from dovetail.engine.step.core import EngineCore
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.registry import Registry
from dovetail.kernel.resolve import resolve

LIMITS = {"kv_cache_memory_bytes": 2**20, "max_num_batched_tokens": 32, "max_num_seqs": 2}
"""A small engine, so that what a trial takes is what the files ask for."""


@functools.cache
def registry() -> Registry:
    """The installed plugins, found once for all trials."""
    return Registry.load()


def use_model(path: Path, *, run: bool = True) -> None:
    """Resolve a model, load its tokenizer and use both; with ``run`` also load its weights and compute a step.

    Raises:
        DovetailError: something does not fit.
    """
    plan = resolve(PlanOptions(model=str(path), device="cpu"), registry())
    str(plan.model_dump_json())
    tokenizer = load_tokenizer(plan)
    ids = tokenizer.encode("The thé and\n 12 <|user|> an <s>")
    tokenizer.decode(ids[:100])
    if tokenizer.chat_template is not None:
        tokenizer.find_chat_template()
    if run:
        EngineCore(plan, EngineArgs(model=str(path), device="cpu", **LIMITS))

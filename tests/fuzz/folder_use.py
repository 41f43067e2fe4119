"""What a user does with a folder of Hugging Face's files: plan, tokenizer, a chat, weights, a step, an adapter."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dovetail.engine.adapters.lora_request import find_adapter
from dovetail.engine.args import EngineArgs
from dovetail.engine.request.defaults import sampling_defaults
from dovetail.engine.setup import load_tokenizer
from dovetail.engine.step.core import EngineCore
from dovetail.engine.step.memory import explain_out_of_memory
from dovetail.engine.text.hf_tokenizer import HFTokenizer
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.plan import Plan
from dovetail.kernel.resolve import resolve

from .model_use import LIMITS, registry
from .mutations import damage_bytes, damage_json, dump_json
from .trial import Outcome, run_trial

MESSAGES = [{"role": "user", "content": "Hi,  there 12345! é中\U0001f600"}]


def make_plan(folder: Path, **options: Any) -> Plan:
    """Resolve a model, and send the plan through JSON, as it reaches the engine's process."""
    plan = resolve(PlanOptions(model=str(folder), device="cpu", **options), registry())
    return Plan.model_validate_json(plan.model_dump_json())


def use_tokenizer(folder: Path, plan: Plan) -> None:
    """Encode, decode and render with a folder's own tokenizer."""
    tokenizer = load_tokenizer(plan)
    ids = tokenizer.encode(MESSAGES[0]["content"])
    tokenizer.decode(ids[:100])
    tokenizer.min_token_count("text")
    HFTokenizer.from_plan(tokenizer, plan).encode("text")
    if tokenizer.chat_template is not None:
        tokenizer.encode(tokenizer.apply_chat_template(MESSAGES), add_special_tokens=False)


def start(folder: Path, load_format: str = "auto", **options: Any) -> EngineCore:
    """Start an engine on a folder, which computes a step."""
    plan = make_plan(folder, load_format=load_format)
    args = EngineArgs(model=str(folder), device="cpu", **{**LIMITS, **options})
    sampling_defaults(plan, args)
    with explain_out_of_memory(plan.model):
        return EngineCore(plan, args)


def use_model(folder: Path) -> None:
    """All of it, without an adapter."""
    use_tokenizer(folder, make_plan(folder))
    start(folder)


def add_adapter(core: EngineCore, folder: Path) -> None:
    core.add_adapter(find_adapter("a", str(folder), registry()).model_dump_json())


def try_files(folder: Path, files: dict[str, bytes], work: Callable[[Path], Any]) -> Outcome:
    """A trial of a folder with some of its files replaced, which is as it was afterwards."""
    before = {name: file.read_bytes() if (file := folder / name).exists() else None for name in files}
    try:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        return run_trial(lambda: work(folder))
    finally:
        for name, old in before.items():
            if old is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(old)


def find_problems(
    folder: Path, seeds: range, damaged_files: Callable[[random.Random], dict[str, bytes]], work: Callable[[Path], Any]
) -> list[str]:
    """Try a folder once for each seed; what was found, with the files."""
    found = []
    for seed in seeds:
        files = damaged_files(random.Random(seed))
        outcome = try_files(folder, files, work)
        if outcome.problem:
            found.append(f"{seed}: {outcome.problem}\n{files}"[:6000])
    return found


def damage(value: Any, rng: random.Random) -> bytes:
    """A JSON value with damage to its structure, or to its bytes."""
    return dump_json(damage_json(value, rng)) if rng.random() < 0.8 else damage_bytes(json.dumps(value).encode(), rng)

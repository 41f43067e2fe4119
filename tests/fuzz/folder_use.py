"""What a user does with a folder of Hugging Face's files: plan, tokenizer, a chat, weights, a step, an adapter."""

from __future__ import annotations

from pathlib import Path

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

MESSAGES = [{"role": "user", "content": "Hi,  there 12345! é中\U0001f600"}]


def make_plan(folder: Path) -> Plan:
    """Resolve a model, and send the plan through JSON, as it reaches the engine's process."""
    plan = resolve(PlanOptions(model=str(folder), device="cpu"), registry())
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


def start(folder: Path, **options: object) -> EngineCore:
    """Start an engine on a folder, which computes a step."""
    plan = make_plan(folder)
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

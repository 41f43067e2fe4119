"""``dovetail plan [MODEL]``: shows all decisions about a model, with reasons."""

from __future__ import annotations

import argparse
import contextlib
import sys

from dovetail.api.errors import RequestError
from dovetail.cli.connection import add_model, find_model_name
from dovetail.cli.parsing.foreign import say_variables
from dovetail.engine.args import EngineArgs
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.parsers import ANY, recognise
from dovetail.kernel.plan import Choice, ParserPlan, Plan
from dovetail.kernel.registry import Registry
from dovetail.kernel.resolve import resolve
from dovetail.server.settings import ServerSettings
from dovetail.utils.arguments import use_foreign_options
from dovetail.utils.flags import add_flags, read_flags
from dovetail.utils.terminal import printable_json, printable_line, printable_lines

MANY = 8
"""How many rejected candidates of one role are shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    add_flags(parser, PlanOptions, "resolution", skip=("model",))
    add_flags(parser, EngineArgs, "plugins", skip=set(EngineArgs.model_fields) - {"plugins", "prefer"})
    add_flags(parser, EngineArgs, "chat", skip=set(EngineArgs.model_fields) - {"chat_template"})
    # So that the command line of a server can be planned as it is: they are checked, and decide nothing of the plan.
    shown = {*PlanOptions.model_fields, "plugins", "prefer", "chat_template"}
    add_flags(parser, EngineArgs, "engine", skip=shown, hidden=True)
    add_flags(parser, ServerSettings, "server", hidden=True)
    use_foreign_options(parser, "serve")


def run(args: argparse.Namespace) -> int:
    args.model = find_model_name(args)
    say_variables()
    options = read_flags(PlanOptions, args)
    read_flags(EngineArgs, args)
    read_flags(ServerSettings, args)
    registry = Registry.load(plugins=getattr(args, "plugins", None), prefer=getattr(args, "prefer", ()))
    with contextlib.redirect_stdout(sys.stderr):  # plugins may print while they are imported
        plan = resolve(options, registry)
        template = None if args.json else find_template(plan, getattr(args, "chat_template", None))
    print(printable_json(plan.model_dump_json(indent=2)) if args.json else printable_lines(render(plan, template)))
    for warning in plan.warnings:
        print(f"warning: {printable_line(str(warning))}", file=sys.stderr)
    return 0


def find_template(plan: Plan, chat_template: str | None) -> str | None:
    """The model's chat template for conversations with tools, if it has one and it decides anything."""
    if all(parser.recognises == ANY for parser in (*plan.tool_parsers, *plan.reasoning_parsers)):
        return None
    from dovetail.engine.setup import load_tokenizer

    tokenizer = load_tokenizer(plan, chat_template)
    try:
        return tokenizer.find_chat_template(with_tools=True)
    except RequestError:
        return None


def render(plan: Plan, template: str | None = None) -> str:
    """The plan as text.

    Args:
        template: the model's chat template, which decides about parsers.
    """
    lines = [
        f"model          {plan.model}",
        f"architecture   {plan.architecture}",
        f"tasks          {', '.join(plan.tasks)}: {plan.tasks_reason}",
        *_pooling_lines(plan),
        f"dtype          {plan.dtype}, KV cache {plan.kv_dtype}",
        f"context        {plan.max_model_len} tokens",
        "",
    ]
    for choice in plan.choices():
        lines += _choice_lines(choice)
    lines += _parser_lines("tool parser", plan.tool_parsers, template)
    lines += _parser_lines("reasoning", plan.reasoning_parsers, template)
    lines += _speculation_lines(plan)
    others: list[str] = []
    unread: list[str] = []
    for type_, count in plan.checkpoint.tensor_types.items():
        planned = [weight for weight in plan.weights if weight.type == type_]
        if not planned:
            beside = type_.startswith(("int", "uint", "bool"))
            (others if beside else unread).append(f"{count} of type {type_}")
            continue
        lines += ["", f"weights of type {type_} ({count} tensors)"]
        for weight in planned:
            kernel, *more = weight.kernels
            lines.append(
                f"  {weight.kind:<12} format {weight.format.part.name}, kernel {kernel.name} ({kernel.distribution} {kernel.version})"
            )
            if more:
                lines.append(f"{'':<14} if its shape does not suit: {', '.join(o.name for o in more)}")
            lines += [f"{'':<14} not {r.name}: {r.reason}" for r in weight.rejected]
    if others:  # what formats read beside a weight's own tensor, and what nobody reads
        lines += ["", f"tensors beside weights: {', '.join(others)} (scales, saved masks, position ids)"]
    if unread:
        lines += ["", f"tensors that no format reads as weights: {', '.join(unread)}"]
    return "\n".join(lines)


def _pooling_lines(plan: Plan) -> list[str]:
    if (pooling := plan.pooling) is None:
        return []
    length = "normalised" if pooling.normalize else "not normalised"
    return [f"pooling        {pooling.type}, {length}: {pooling.reason}"]


def _parser_lines(role: str, candidates: tuple[ParserPlan, ...], template: str | None) -> list[str]:
    if not candidates:
        return [f"{role:<14} none"]
    names = ", ".join(candidate.part.name for candidate in candidates)
    if template is None and candidates[0].recognises != ANY:
        return [f"{role:<14} the first that knows the chat template's notation: {names}"]
    found = recognise(candidates, template or "")
    if found is None:
        return [f"{role:<14} none: the chat template shows no notation of {names}"]
    why = (
        "asked for by name" if candidates[0].recognises == ANY else "the first that knows the chat template's notation"
    )
    return [f"{role:<14} {found.part.name} ({found.part.distribution} {found.part.version}): {why}"]


def _speculation_lines(plan: Plan) -> list[str]:
    if plan.proposer is None:
        return []
    options = ", ".join(f"{name} {value}" for name, value in plan.proposer_config.items() if value is not None)
    lines = [f"{'':<14}   up to {plan.num_speculative_tokens} tokens at a time; {options}".rstrip("; ")]
    if plan.draft is not None:
        lines += ["", "draft model", *(f"  {line}".rstrip() for line in render(plan.draft).splitlines())]
    return lines


def _choice_lines(choice: Choice) -> list[str]:
    part = choice.part
    lines = [f"{choice.role:<14} {part.name} ({part.distribution} {part.version}): {choice.reason}"]
    lines += [f"{'':<14}   not {r.name} ({r.distribution}): {r.reason}" for r in choice.rejected[:MANY]]
    if (more := len(choice.rejected) - MANY) > 0:
        lines.append(f"{'':<14}   and not {more} more, which --json lists")
    return lines

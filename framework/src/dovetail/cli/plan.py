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
from dovetail.kernel.plan import Plan, render
from dovetail.kernel.plan_parts import ANY
from dovetail.kernel.registry import Registry
from dovetail.kernel.resolve import resolve
from dovetail.server.settings import ServerSettings
from dovetail.utils.arguments import use_foreign_options
from dovetail.utils.flags import add_flags, read_flags
from dovetail.utils.terminal import printable_json, printable_line, printable_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the plan as JSON")
    form.add_argument(
        "--weights",
        action="store_true",
        help="also build the model, and print how many of its weights each format reads, and of which tensors; no weight is read",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="with every candidate that was not selected, and the reason for each"
    )
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
        if plan.config.get("classifier_from_token"):
            from dovetail.engine.setup import find_token_labels

            plan = find_token_labels(plan)
        template = None if args.json else find_template(plan, getattr(args, "chat_template", None))
        weights = _describe_weights(plan, options.block_size) if args.weights else []
    if args.json:
        print(printable_json(plan.model_dump_json(indent=2)))
    else:
        print(printable_lines("\n".join([render(plan, template, verbose=args.verbose), *weights])))
    for warning in plan.warnings:
        print(f"warning: {printable_line(str(warning))}", file=sys.stderr)
    return 0


def _describe_weights(plan: Plan, block_size: int) -> list[str]:
    from dovetail.engine.step.weight_groups import WeightCounter

    return WeightCounter(plan, block_size).describe()


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

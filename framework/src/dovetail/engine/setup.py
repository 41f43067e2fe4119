"""The first steps with every model: resolve its Plan, and load its tokenizer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from dovetail.api.checkpoint import HF_TOKENIZER, TokenizerParts
from dovetail.api.errors import ConfigError, UsageError
from dovetail.api.text import quote_foreign
from dovetail.engine.args import EngineArgs
from dovetail.engine.templates.chat_template import ContentFormatOption, load_template
from dovetail.engine.text.hf_tokenizer import HFTokenizer, read_tokenizer_config
from dovetail.engine.text.library_errors import explain_file_errors
from dovetail.engine.text.pattern_costs import check_patterns
from dovetail.engine.text.tokenizer import Tokenizer
from dovetail.kernel.blame import blame, wrong_answer
from dovetail.kernel.checkpoints import find_tokenizer
from dovetail.kernel.discovery import import_dotted, import_part
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.plan import Plan
from dovetail.kernel.plan_parts import Part
from dovetail.kernel.registry import Registry
from dovetail.kernel.resolve import resolve
from dovetail.utils import logs


def make_plan(args: EngineArgs) -> Plan:
    """Discover the installed plugins and resolve the Plan. Warnings are written to standard error.

    Raises:
        DovetailError: something does not fit, with the reasons.
    """
    registry = Registry.load(plugins=args.plugins, prefer=args.prefer)
    options = PlanOptions(**{name: getattr(args, name) for name in PlanOptions.model_fields})
    plan = find_token_labels(resolve(options, registry))
    if args.cpu_offload_gb and plan.platform.part.name != "cpu":
        raise UsageError(
            f"--cpu-offload-gb is {args.cpu_offload_gb:g}, and weights of {plan.platform.part.name} are not moved to the host's memory",
            "leave it out, and take a smaller or quantized model",
        )
    notes = [
        f"the plugin {p.distribution} is broken and was left out: {p.reason}" for p in registry.quarantined_plugins
    ]
    notes += [f"{c}, so neither is used: {c.hint}" for c in registry.conflicts]
    for note in (*notes, *plan.warnings):
        logs.announce(f"warning: {note}", logging.WARNING)
    return plan


def find_token_labels(plan: Plan) -> Plan:
    """The Plan with the ids of the tokens that are a classifier's labels, if there are any.

    Raises:
        ConfigError: the vocabulary lacks one of them.
    """
    tokens = plan.config.get("classifier_from_token")
    if not tokens or plan.config.get("classifier_token_ids"):
        return plan
    ids = load_tokenizer(plan).convert_tokens_to_ids(tokens)
    if None in ids:
        raise ConfigError(
            f"classifier_from_token has {quote_foreign(tokens[ids.index(None)])}, which the vocabulary of {plan.model} lacks",
            "give tokens as the vocabulary spells them, which of some has ▁ or Ġ before words, or give their ids as classifier_token_ids",
        )
    config = {**plan.config, "classifier_token_ids": ids}
    found = plan.model_copy(update={"config": config})
    found.build_model_config()  # what it refuses of them is told here
    return found


def load_tokenizer(
    plan: Plan,
    chat_template: str | None = None,
    content_format: ContentFormatOption = "auto",
    allow_special_tokens_in_content: bool = False,
) -> Tokenizer:
    """Load the plan's tokenizer.

    Args:
        chat_template: a file with a template, or the template itself, in place of the model's own.
        content_format: the content format for the template.
        allow_special_tokens_in_content: whether control tokens in what messages say are tokenized as such.

    Raises:
        ConfigError: ``chat_template`` looks like a file name, and there is no such file.
    """
    tokenizer = Tokenizer.from_parts(
        _read_parts(plan.checkpoint.tokenizer, plan.checkpoint.tokenizer_path, plan.loader.part)
    )
    if chat_template is not None:
        tokenizer.chat_template = load_template(chat_template)
    tokenizer.chat_template_content_format = content_format
    tokenizer.allow_special_tokens_in_content = allow_special_tokens_in_content
    return tokenizer


def get_tokenizer(tokenizer_name: str) -> HFTokenizer:
    """Load only a tokenizer, without a model.

    Args:
        tokenizer_name: a folder with tokenizer files, one of those, or a weight file that contains a tokenizer.

    Raises:
        CheckpointError: there is no such file or folder, or it cannot be read.
    """
    found = find_tokenizer(str(tokenizer_name), Registry.load())
    path = found["tokenizer_path"]
    inner = Tokenizer.from_parts(_read_parts(found["tokenizer"], path))
    return HFTokenizer(inner, str(tokenizer_name), read_tokenizer_config(path))


def _read_parts(reader: str, path: str, loader: Part | None = None) -> TokenizerParts:
    """Read a tokenizer's data.

    Args:
        reader: the function that reads it, as in :attr:`dovetail.api.Checkpoint.tokenizer`.
        loader: of the weights, whose plugin has its readers in the same package.

    Raises:
        CheckpointError: its regular expressions take too long.
        PluginError: it fails, or returns something else.
    """
    if reader == HF_TOKENIZER:  # the framework's own
        own: TokenizerParts = import_dotted(reader)(path)
        return own
    package = reader.partition(".")[0].partition(":")[0]
    if loader is not None and loader.target.startswith((f"{package}.", f"{package}:")):
        part = loader
    else:  # another loader's, for --tokenizer
        part = Part(kind="tokenizer", name=reader, distribution="", version="", target=reader)
    read = import_part(part, reader)
    with blame(part, f"to read the tokenizer of {path}"):
        found: Any = read(path)
    if not isinstance(found, TokenizerParts):
        raise wrong_answer(part, f"the tokenizer of {path}", found, "TokenizerParts")
    with explain_file_errors(Path(path)):
        check_patterns(found.backend, Path(path))
    return found

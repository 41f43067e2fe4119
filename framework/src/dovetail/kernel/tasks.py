"""Decides which tasks a model serves, and how its hidden states become one vector for pooling tasks."""

from __future__ import annotations

from typing import Any, get_args

from dovetail.api.cards import ModelCard, PoolingType, Task
from dovetail.api.checkpoint import Checkpoint
from dovetail.api.config import ModelConfig
from dovetail.api.errors import ConfigError, ResolutionError, UsageError
from dovetail.kernel.options import AUTO, PlanOptions
from dovetail.kernel.plan_parts import PoolingPlan
from dovetail.kernel.sentence_transformers import MODULES_FILE, has_modules, read_pooling, read_prompts, read_score

WHOLE_PROMPTS = "every token sees the whole prompt, so it cannot generate"
TYPE_KEYS, NORMALIZE_KEYS = ("pooling_type", "seq_pooling_type"), ("normalize", "use_activation")
"""Keys of ``--pooler-config``; the second of each is a newer name in vLLM."""


def find_tasks(
    options: PlanOptions, card: ModelCard, checkpoint: Checkpoint, *, can_generate: bool = True, labels: int = 1
) -> tuple[tuple[Task, ...], str]:
    """The tasks that the model serves, and why.

    Args:
        can_generate: false if its configuration makes every token see the whole prompt, whatever the card says.
        labels: of its configuration. Of a card for labels and scores, one label is a score, and several are none.

    Raises:
        UsageError: the options contradict each other.
        ResolutionError: the model cannot do what they require.
    """
    runner, reason = _requested_runner(options, checkpoint)
    of_labels = {"score"} if labels > 1 and "classify" in card.tasks else set()
    served = tuple(task for task in card.tasks if task not in of_labels)
    vectors = tuple(task for task in served if task != "generate")
    offered = served if can_generate else vectors
    if runner == AUTO and not offered:
        runner, reason = "pooling", WHOLE_PROMPTS
    if runner == AUTO:
        tasks: tuple[Task, ...] = offered
    elif runner == "generate":
        tasks = ("generate",) if "generate" in offered else ()
    else:
        tasks = vectors
        wanted = options.task == "embed" or (options.task == AUTO and not tasks)
        if "embed" not in tasks and (options.convert == "embed" or (options.convert == AUTO and wanted)):
            tasks += ("embed",)
            reason += f"; the model was made for {', '.join(card.tasks)}"
    if options.task != AUTO:
        tasks = tuple(task for task in tasks if task == options.task)
    if not tasks:
        asked = options.task if options.task != AUTO else runner
        kept = " and --convert none keeps it at that" if options.convert == "none" else ""
        if not can_generate:
            kept += f"; with this configuration {WHOLE_PROMPTS}"
        raise ResolutionError(
            f"wanted {asked} ({reason}), and the model {card.name} offers {', '.join(served)}{kept}",
            "take a model that was trained for it; only embeddings can be had of any model, with --convert embed",
        )
    if options.speculative_config is not None and "generate" not in tasks:
        raise UsageError(
            f"--speculative-config guesses tokens, and the model is run for {', '.join(tasks)} ({reason})",
            "leave one of the two out",
        )
    return tasks, reason


def _requested_runner(options: PlanOptions, checkpoint: Checkpoint) -> tuple[str, str]:
    """The requested runner (``auto``, ``generate`` or ``pooling``), and the option that requests it."""
    asked: dict[str, str] = {}
    if options.runner != AUTO:
        asked[f"--runner {options.runner}"] = options.runner
    if options.task != AUTO:
        asked[f"--task {options.task}"] = "generate" if options.task == "generate" else "pooling"
    if options.convert == "embed":
        asked["--convert embed"] = "pooling"
    if len(set(asked.values())) > 1 or (options.convert == "embed" and options.task not in (AUTO, "embed")):
        raise UsageError(f"{' and '.join(asked)} contradict each other", "leave one of them out")
    if asked:
        return next(iter(asked.values())), " and ".join(asked)
    if has_modules(checkpoint):
        return "pooling", f"{MODULES_FILE} makes it a model of sentence-transformers"
    return AUTO, "what the model was made for"


def find_token_score(options: PlanOptions, checkpoint: Checkpoint, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a language model as that of a classifier, if sentence-transformers' files say that it scores
    by the logits of tokens, and the options ask for nothing else.

    Raises:
        ConfigError: these files cannot be read.
    """
    scores = options.runner != "generate" and options.convert != "embed" and options.task in (AUTO, "classify", "score")
    overrides = options.hf_overrides
    said = (
        () if callable(overrides) else {"architectures", "classifier_from_token", "classifier_token_ids"} & {*overrides}
    )
    return read_score(checkpoint, config) if scores and not said else config


def check_token_labels(config: ModelConfig, card: ModelCard) -> None:
    """Refuse a configuration whose labels are tokens for a model that has no labels, or a head of its own for them.

    Raises:
        ConfigError: it is.
    """
    if not (config.classifier_from_token or config.classifier_token_ids):
        return
    if "classify" in card.tasks and "head" in card.layer_kinds:
        return
    raise ConfigError(
        f"classifier_from_token names tokens for a classifier's labels, and the model {card.name} is for "
        f"{', '.join(card.tasks)}{'' if 'classify' not in card.tasks else ' with a head of its own'}",
        'name the architecture of a classifier, such as --hf-overrides \'{"architectures": '
        '["…ForSequenceClassification"], …}\', or leave the key out',
    )


def find_pooling(
    options: PlanOptions,
    card: ModelCard,
    checkpoint: Checkpoint,
    config: dict[str, Any],
    tasks: tuple[Task, ...],
    own: PoolingType | None = None,
) -> PoolingPlan | None:
    """How vectors are made, by ``--pooler-config``, the files of sentence-transformers, the configuration, and the
    model's card, in this order. The files are about embeddings: what heads for labels and scores read is the model's own.

    Args:
        own: what the configuration says.

    Raises:
        UsageError: ``--pooler-config`` cannot be read; names the key.
        ConfigError: the checkpoint requires something that is not supported.
    """
    given = _pooler_config(options.pooler_config)
    if tasks == ("generate",):
        if given:
            raise UsageError(
                "--pooler-config is about vectors, and the model is run for text",
                "add --convert embed, or leave it out",
            )
        return None
    found: dict[str, Any] = {"type": own or card.pooling, "normalize": True}
    sources = ["the configuration" if own else f"the default of {card.name}"]
    prompts: dict[str, Any] = {}
    if "embed" in tasks and has_modules(checkpoint):
        if len(given) < len(found):
            found = read_pooling(checkpoint)
            sources = [MODULES_FILE]
        prompts = read_prompts(checkpoint)
    if given:
        sources = ["--pooler-config"] if len(given) == len(found) else ["--pooler-config", *sources]
    return PoolingPlan(
        **{**found, **prompts, **given}, dimensions=_matryoshka_dimensions(config), reason=", then ".join(sources)
    )


def _pooler_config(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in given.items():
        if key in TYPE_KEYS:
            found["type"] = value.lower() if isinstance(value, str) else value
            wanted, fits = "last, mean or cls", found["type"] in get_args(PoolingType)
        elif key in NORMALIZE_KEYS:
            found["normalize"] = value
            wanted, fits = "true or false", isinstance(value, bool)
        else:
            raise UsageError(f"--pooler-config has {key!r}", f"known are {', '.join((*TYPE_KEYS, *NORMALIZE_KEYS))}")
        if not fits:
            raise UsageError(f"--pooler-config: {key} is {value!r}", f"wanted {wanted}")
    return found


def _matryoshka_dimensions(config: dict[str, Any]) -> tuple[int, ...] | None:
    sizes = config.get("matryoshka_dimensions")
    if sizes is None:
        return () if config.get("is_matryoshka") is True else None
    if not isinstance(sizes, list) or not sizes or not all(type(size) is int and size > 0 for size in sizes):
        raise ConfigError(
            f"matryoshka_dimensions is {sizes!r}, wanted a list of numbers above 0", "correct it with --hf-overrides"
        )
    return tuple(sorted(sizes))

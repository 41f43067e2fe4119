"""Decides which tasks a model serves, and how its hidden states become one vector for pooling tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from dovetail.api.cards import ModelCard, PoolingType, Task
from dovetail.api.checkpoint import Checkpoint
from dovetail.api.config import ModelConfig
from dovetail.api.errors import ConfigError, ResolutionError, UsageError
from dovetail.api.json_files import read_json
from dovetail.kernel.options import AUTO, PlanOptions
from dovetail.kernel.plan import PoolingPlan

MODULES_FILE = "modules.json"
"""The file in which sentence-transformers lists the parts of a model."""
MODES: dict[str, PoolingType] = {
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}
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
    if _modules_file(checkpoint).is_file():
        return "pooling", f"{MODULES_FILE} makes it a model of sentence-transformers"
    return AUTO, "what the model was made for"


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
        '["Qwen3ForSequenceClassification"], …}\', or leave the key out',
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
    if "embed" in tasks and (file := _modules_file(checkpoint)).is_file() and len(given) < len(found):
        found = _read_sentence_transformers(file)
        sources = [MODULES_FILE]
    if given:
        sources = ["--pooler-config"] if len(given) == len(found) else ["--pooler-config", *sources]
    return PoolingPlan(**{**found, **given}, dimensions=_matryoshka_dimensions(config), reason=", then ".join(sources))


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


def _modules_file(checkpoint: Checkpoint) -> Path:
    where = Path(checkpoint.path)
    return (where.parent if where.is_file() else where) / MODULES_FILE


def _read_sentence_transformers(file: Path) -> dict[str, Any]:
    """Read pooling and normalisation from the files of sentence-transformers."""
    found: dict[str, Any] = {"normalize": False}
    for module in read_json(file, list):
        kind = str(module.get("type", "")).rpartition(".")[2] if isinstance(module, dict) else ""
        if kind == "Pooling":
            found["type"] = _read_pooling_mode(file.parent / str(module.get("path", "")) / "config.json")
        elif kind == "Normalize":
            found["normalize"] = True
        elif kind != "Transformer":
            raise ConfigError(
                f"{file} lists a module of the type {kind or module!r}, wanted Transformer, Pooling and Normalize",
                "say how to pool with --pooler-config, which leaves the module out, or run it with --runner generate",
            )
    if "type" not in found:
        raise ConfigError(f"{file} lists no module of the type Pooling", "say how to pool with --pooler-config")
    return found


def _read_pooling_mode(file: Path) -> PoolingType:
    config = read_json(file, dict)
    if not config:
        raise ConfigError(
            f"wanted {file}, found none", "complete the download, or say how to pool with --pooler-config"
        )
    modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    if len(modes) == 1 and modes[0] in MODES:
        return MODES[modes[0]]
    raise ConfigError(
        f"{file} asks for {' and '.join(modes) or 'no pooling mode'}, wanted one of {', '.join(MODES)}",
        "say how to pool with --pooler-config",
    )


def _matryoshka_dimensions(config: dict[str, Any]) -> tuple[int, ...] | None:
    sizes = config.get("matryoshka_dimensions")
    if sizes is None:
        return () if config.get("is_matryoshka") is True else None
    if not isinstance(sizes, list) or not sizes or not all(type(size) is int and size > 0 for size in sizes):
        raise ConfigError(
            f"matryoshka_dimensions is {sizes!r}, wanted a list of numbers above 0", "correct it with --hf-overrides"
        )
    return tuple(sorted(sizes))

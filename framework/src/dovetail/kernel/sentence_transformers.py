"""The files of sentence-transformers beside a checkpoint: the modules that follow the model, and prompts.

Source: the documentation and the configurations of sentence-transformers, versions 2 to 6.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dovetail.api.cards import PoolingType
from dovetail.api.checkpoint import Checkpoint
from dovetail.api.errors import ConfigError
from dovetail.api.json_files import read_json
from dovetail.api.text import join_names, quote_foreign

MODULES_FILE = "modules.json"
"""Lists the modules."""
PROMPTS_FILE = "config_sentence_transformers.json"
MODES: dict[str, PoolingType] = {
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}
"""Flags of the module Pooling, before version 5.4."""
NAMED_MODES: dict[str, PoolingType] = {"lasttoken": "last", "mean": "mean", "cls": "cls"}
"""Values of its ``pooling_mode``, since then."""
SCORE = "LogitScore"
"""The module that scores by the logits of one or two tokens."""
POOL = "say how to pool with --pooler-config"


def has_modules(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint is a model of sentence-transformers."""
    return (_folder(checkpoint) / MODULES_FILE).is_file()


def read_pooling(checkpoint: Checkpoint) -> dict[str, Any]:
    """How hidden states become vectors: the fields ``type`` and ``normalize`` of a
    :class:`~dovetail.kernel.plan.PoolingPlan`.

    Raises:
        ConfigError: there are other modules, or a pooling that is not supported.
    """
    file = _folder(checkpoint) / MODULES_FILE
    found: dict[str, Any] = {"normalize": False}
    for kind, folder, module in _modules(checkpoint):
        if kind == "Pooling":
            found["type"] = _read_mode(folder / "config.json")
        elif kind == "Normalize":
            found["normalize"] = True
        elif kind != "Transformer":
            raise ConfigError(
                f"{file} lists a module of the type {kind or module!r}, wanted Transformer, Pooling and Normalize",
                f"{POOL}, which leaves the module out, or run it with --runner generate",
            )
    if "type" not in found:
        raise ConfigError(f"{file} lists no module of the type Pooling", POOL)
    return found


def read_prompts(checkpoint: Checkpoint) -> dict[str, Any]:
    """The texts that belong before others: the fields ``prompts`` and ``default_prompt`` of a
    :class:`~dovetail.kernel.plan.PoolingPlan`.

    Raises:
        ConfigError: the file holds something else; or a mean is over the tokens that follow the prompt alone, which is not
            supported.
    """
    file = _folder(checkpoint) / PROMPTS_FILE
    config = read_json(file, dict)
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ConfigError(
            f"prompts is {quote_foreign(prompts)} in {file}, wanted an object of texts", "correct the file"
        )
    if default is not None and default not in prompts:
        raise ConfigError(
            f"default_prompt_name is {quote_foreign(default)} in {file}, whose prompts are {join_names(list(prompts)) or 'none'}",
            "correct the file",
        )
    texts = {name: text or "" for name, text in prompts.items()}
    if any(texts.values()):
        for kind, folder, _ in _modules(checkpoint):
            if kind == "Pooling" and read_json(folder / "config.json", dict).get("include_prompt") is False:
                raise ConfigError(
                    f"{folder / 'config.json'} says include_prompt false: vectors without their prompts' tokens are not supported",
                    f"remove the prompts from {PROMPTS_FILE}, and send texts as they should be read",
                )
    return {"prompts": texts, "default_prompt": default}


def read_score(checkpoint: Checkpoint, config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the changes that make a language model a classifier, if its score is that of tokens
    (``LogitScore``); otherwise as it is.

    Raises:
        ConfigError: the module's file is missing or malformed, or this is no language model.
    """
    folder = next((folder for kind, folder, _ in _modules(checkpoint) if kind == SCORE), None)
    if folder is None:
        return config
    file = folder / "config.json"
    module = read_json(file, dict)
    true, false = module.get("true_token_id"), module.get("false_token_id")
    if type(true) is not int or (false is not None and type(false) is not int):
        raise ConfigError(
            f"wanted true_token_id and false_token_id in {file}, found {quote_foreign(module)}", "correct it"
        )
    named = config.get("architectures")
    names = [name for name in (named if isinstance(named, list) else []) if isinstance(name, str)]
    if not names or not names[0].endswith("ForCausalLM"):
        raise ConfigError(
            f"{MODULES_FILE} lists a module of the type {SCORE}, which is for a …ForCausalLM, and architectures is {named!r}",
            "correct one of them",
        )
    return {
        **config,
        "architectures": [names[0].removesuffix("ForCausalLM") + "ForSequenceClassification"],
        "classifier_token_ids": [true] if false is None else [false, true],
        "classifier_method": "no_post_processing" if false is None else "from_2_way_softmax",
    }


def _folder(checkpoint: Checkpoint) -> Path:
    where = Path(checkpoint.path)
    return where.parent if where.is_file() else where


def _modules(checkpoint: Checkpoint) -> list[tuple[str, Path, Any]]:
    """The type, the folder and the entry of each module; none without the file."""
    found = []
    folder = _folder(checkpoint)
    for module in read_json(folder / MODULES_FILE, list):
        if isinstance(module, dict):
            kind = str(module.get("type", "")).rpartition(".")[2]
            found.append((kind, folder / str(module.get("path", "")), module))
        else:
            found.append(("", folder, module))
    return found


def _read_mode(file: Path) -> PoolingType:
    config = read_json(file, dict)
    if not config:
        raise ConfigError(f"wanted {file}, found none", f"complete the download, or {POOL}")
    if (named := config.get("pooling_mode")) is not None:
        mode = named[0] if isinstance(named, list) and len(named) == 1 else named
        if isinstance(mode, str) and mode in NAMED_MODES:
            return NAMED_MODES[mode]
        raise ConfigError(
            f"{file} says pooling_mode {quote_foreign(named)}, wanted one of {', '.join(NAMED_MODES)}", POOL
        )
    modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    if len(modes) == 1 and modes[0] in MODES:
        return MODES[modes[0]]
    raise ConfigError(
        f"{file} asks for {' and '.join(modes) or 'no pooling mode'}, wanted one of {', '.join(MODES)}", POOL
    )

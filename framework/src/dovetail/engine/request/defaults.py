"""Default sampling parameters, from the model's generation configuration or from the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from dovetail.api.errors import ConfigError, RequestError, UsageError
from dovetail.api.json_files import read_json
from dovetail.engine.args import EngineArgs
from dovetail.engine.request.params import SamplingParams
from dovetail.kernel.plan import Plan

GENERATION_CONFIG_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Keys of ``generation_config.json`` with the same names as sampling parameters."""
MAX_NEW_TOKENS_KEY = "max_new_tokens"


def sampling_defaults(plan: Plan, args: EngineArgs) -> dict[str, Any]:
    """Defaults for parameters that a request does not set. ``max_tokens``, if set, is also an upper limit.

    Raises:
        ConfigError, UsageError: the folder has no such file, or a value is out of range.
    """
    config = _read_generation_config(plan, args)
    defaults = {key: config[key] for key in GENERATION_CONFIG_KEYS if config.get(key) is not None}
    if config.get(MAX_NEW_TOKENS_KEY):
        defaults["max_tokens"] = config[MAX_NEW_TOKENS_KEY]
    override = dict(args.override_generation_config)
    if MAX_NEW_TOKENS_KEY in override:
        override["max_tokens"] = override.pop(MAX_NEW_TOKENS_KEY)
    if unknown := sorted(set(override) - set(SamplingParams.__struct_fields__)):
        raise UsageError(
            f"--override-generation-config names {', '.join(unknown)}, wanted sampling parameters",
            f"known: {', '.join(SamplingParams.__struct_fields__)}",
        )
    defaults.update(override)
    try:
        apply_defaults(None, defaults)
    except RequestError as error:
        raise ConfigError(f"the default sampling parameters do not hold: {error}", "see --generation-config") from None
    return defaults


def _read_generation_config(plan: Plan, args: EngineArgs) -> dict[str, Any]:
    if args.generation_config == "auto":
        return plan.checkpoint.generation_config
    if args.generation_config == "none":
        return {}
    file = Path(args.generation_config) / "generation_config.json"
    if not file.is_file():
        raise ConfigError(f"wanted {file}, found no such file", "give auto, none, or its folder")
    return read_json(file, dict)


def apply_defaults(params: SamplingParams | None, defaults: dict[str, Any]) -> SamplingParams:
    """The user's parameters, or the defaults if there are none. The limit of ``max_tokens`` applies to both.

    Raises:
        RequestError: the defaults are out of range.
    """
    cap = defaults.get("max_tokens")
    if params is None:
        return SamplingParams(**defaults)
    if cap is not None and (params.max_tokens is None or params.max_tokens > cap):
        return msgspec.structs.replace(params, max_tokens=cap, min_tokens=min(params.min_tokens, cap))
    return params

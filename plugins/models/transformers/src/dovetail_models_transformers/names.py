"""Which architectures the installed transformers has, read from its table without importing it."""

from __future__ import annotations

import ast
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TABLE = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"


def unsupported_reason(architecture: str, config: dict[str, Any]) -> str | None:
    """Why an architecture cannot be served; see :attr:`dovetail.api.ModelCard.accepts`."""
    known = architectures()
    if architecture not in known:
        remote = "; code that comes with a checkpoint is not run" if config.get("auto_map") else ""
        return f"transformers {version('transformers')} has no {architecture} among {len(known)} causal language models{remote}"
    found = config.get("model_type")
    if found != known[architecture]:
        return f"transformers has {architecture} for the model_type {known[architecture]!r}, and config.json says {found!r}"
    return None


@cache
def architectures() -> dict[str, str]:
    """Architecture → ``model_type`` of the causal language models that transformers has."""
    spec = find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return {}
    file = Path(spec.submodule_search_locations[0], "models", "auto", "modeling_auto.py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == TABLE:
            pairs = (pair for pair in ast.walk(node.value) if isinstance(pair, ast.Tuple) and len(pair.elts) == 2)
            return {name: kind for kind, name in map(ast.literal_eval, pairs) if isinstance(name, str)}
    return {}

"""Tools that the provider of a model runs, such as its search. This server runs none.

Agents offer them to whatever model they talk to, beside functions of their own. A model that is not told of one does what one would that sees no
need for it, so there they are left out. Alone they are what the request is about, and it is refused by who reads it.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from dovetail.server.http.errors import describe

logger = logging.getLogger("dovetail.server")

KINDS = ("web_search", "web_fetch", "image_generation")
"""What the types of such tools begin with; dates may follow."""


def without_hosted(tools: Any) -> Any:
    """The tools of a request without those of the provider, if others are left."""
    if not isinstance(tools, list):
        return tools
    kept = [tool for tool in tools if not _is_hosted(tool)]
    if not kept or len(kept) == len(tools):
        return tools
    for tool in tools:
        if _is_hosted(tool):
            _tell(describe(tool["type"]))
    return kept


def _is_hosted(tool: Any) -> bool:
    kind = tool.get("type") if isinstance(tool, dict) else None
    return isinstance(kind, str) and kind.startswith(KINDS)


@lru_cache(maxsize=64)
def _tell(kind: str) -> None:
    """Log it, once."""
    logger.warning("tools of the type %s are left out of requests: this server runs no tools of its own", kind)

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

TYPE_PREFIXES = ("web_search", "web_fetch", "image_generation")
"""What the types of such tools begin with; dates may follow."""


def drop_provider_tools(tools: Any) -> Any:
    """The tools of a request without those of the provider, if others are left."""
    if not isinstance(tools, list):
        return tools
    remaining = [tool for tool in tools if not _is_provider_tool(tool)]
    if not remaining or len(remaining) == len(tools):
        return tools
    for tool in tools:
        if _is_provider_tool(tool):
            _log_dropped(describe(tool["type"]))
    return remaining


def _is_provider_tool(tool: Any) -> bool:
    kind = tool.get("type") if isinstance(tool, dict) else None
    return isinstance(kind, str) and kind.startswith(TYPE_PREFIXES)


@lru_cache(maxsize=64)
def _log_dropped(kind: str) -> None:
    """Log it, once."""
    logger.warning("tools of the type %s are left out of requests: this server runs no tools of its own", kind)

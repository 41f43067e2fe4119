"""Tools that a model's provider runs, such as web search. This server runs none.

Agents send them to any model, beside their own functions. They are dropped if the request has other tools: the model
just does not use them. If a request has only such tools, it is refused where the tools are read.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from dovetail.server.http.errors import describe

logger = logging.getLogger("dovetail.server")

TYPE_PREFIXES = ("web_search", "web_fetch", "image_generation")
"""Prefixes of the types of such tools; a date may follow."""


def drop_provider_tools(tools: Any) -> Any:
    """The tools of a request without the provider's, if others are left."""
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
    """Log it once."""
    logger.warning("tools of the type %s are left out of requests: this server runs no tools of its own", kind)

"""Reasoning between tags."""

from __future__ import annotations

from dovetail.api.parsing import TaggedReasoning


class PLUGIN_CLASSParser(TaggedReasoning):
    """See :class:`dovetail.api.ReasoningParser`."""

    starts = ("<PLUGIN_NAME>",)
    ends = ("</PLUGIN_NAME>",)

"""Reasoning between tags."""

from __future__ import annotations

from dovetail.api.parsing import TaggedReasoningParser


class PLUGIN_CLASSParser(TaggedReasoningParser):
    """See :class:`dovetail.api.ReasoningParser`."""

    start_markers = ("<PLUGIN_NAME>",)
    end_markers = ("</PLUGIN_NAME>",)

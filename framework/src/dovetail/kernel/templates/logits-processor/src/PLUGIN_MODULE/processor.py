"""Forbidding one token of each sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dovetail.api import LogitsProcessor, LogitsRow


class PLUGIN_CLASSProcessor(LogitsProcessor):
    """See :class:`dovetail.api.LogitsProcessor`."""

    def apply(self, logits: torch.Tensor, rows: Sequence[LogitsRow]) -> None:
        for line, row in enumerate(rows):
            if len(row.output) >= row.args["after"] and row.args["token"] < self.context.vocab_size:
                logits[line, row.args["token"]] = -torch.inf

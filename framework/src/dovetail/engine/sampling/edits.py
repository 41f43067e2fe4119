"""Changes of single logits that the host decides at each step: bad words, min_tokens, grammar masks."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dovetail.engine.engine_request import Request
from dovetail.engine.sampling.bitmask import apply_bitmask
from dovetail.engine.sampling.logits_processors import ProcessorCall, build_processor_calls
from dovetail.engine.sampling.metadata import get_sampling_flags
from dovetail.engine.sampling.slots import Upload


@dataclass
class LogitEdits:
    """Changes of single logits, on the device.

    Attributes:
        processors: calls of logits processors, in order.
        forbidden: int64 ``[N]``, places in the flattened logits; or None.
        grammar_masks: lines, int64 ``[M]``, and their bitmasks, int32 ``[M, ceil(V / 32)]``; or None.
        draft_tokens: int64 ``[L', D]``, for each line with penalties the draft tokens to count as output before it,
            filled up with -1; or None.
        assumed_drafts: for each draft position from 1 on: the lines there *among those with penalties*, and the draft
            token before each of them, int64 ``[N]`` each. A line's sample is kept only if the line before was kept and
            sampled this token.
    """

    processors: list[ProcessorCall] = field(default_factory=list)
    forbidden: Tensor | None = None
    grammar_masks: tuple[Tensor, Tensor] | None = None
    draft_tokens: Tensor | None = None
    assumed_drafts: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def apply(self, scores: Tensor) -> None:
        """Forbid tokens, in place.

        Args:
            scores: float32 ``[L, V]``, contiguous.
        """
        if self.forbidden is not None:
            scores.view(-1).index_fill_(0, self.forbidden, -torch.inf)
        if self.grammar_masks is not None:
            lines, masks = self.grammar_masks
            scores.index_copy_(0, lines, apply_bitmask(scores.index_select(0, lines), masks))

    def count_accepted(self, tokens: Tensor) -> Tensor | None:
        """Which sampled tokens are kept in their outputs.

        Args:
            tokens: int64 ``[L']``, of the lines with penalties.

        Returns:
            float32 ``[L']`` of 0 and 1; None if all are kept.
        """
        if not self.assumed_drafts:
            return None
        count_accepted = torch.ones_like(tokens, dtype=torch.float32)
        for lines, expected in self.assumed_drafts:
            before = lines - 1
            right = tokens.index_select(0, before) == expected
            count_accepted.index_copy_(0, lines, count_accepted.index_select(0, before) * right)
        return count_accepted


def build_logit_edits(
    entries: Sequence[tuple[Request, Sequence[int]]],
    vocab_size: int,
    upload: Upload,
    masks: Mapping[int, np.ndarray] | None = None,
    must_end: Container[int] = (),
) -> LogitEdits | None:
    """Build the changes that the host makes in a step's logits, or None.

    They forbid tokens that would end an output before its ``min_tokens``, and the last token of bad words whose
    beginning is at the end of the output. They include grammar masks and, for requests with penalties, the draft tokens
    that a line assumes.

    Args:
        entries: one for each line: the request, and the draft tokens assumed to follow its tokens before this line.
            Lines of one request follow each other, with 0, 1, 2 … draft tokens.
        vocab_size: of the logits.
        upload: copies an array to the device.
        masks: line → allowed tokens, int32 ``[ceil(V / 32)]``, see
            :func:`~dovetail.engine.sampling.bitmask.apply_bitmask`.
        must_end: lines whose masks allow only end tokens, which ``min_tokens`` then cannot forbid.
    """
    forbidden: list[np.ndarray] = []
    drafts: list[Sequence[int]] = []  # of the lines with penalties
    assumed_drafts: dict[int, list[tuple[int, int]]] = {}
    for line, (request, draft) in enumerate(entries):
        flags = get_sampling_flags(request)
        if flags.edits:
            tokens = np.fromiter(_forbidden(request, draft, line in must_end), np.int64)
            if tokens.size:
                forbidden.append(tokens[tokens < vocab_size] + line * vocab_size)
        if flags.is_penalised:
            if draft:
                assumed_drafts.setdefault(len(draft), []).append((len(drafts), draft[-1]))
            drafts.append(draft)
    processors = build_processor_calls([request for request, _ in entries], upload)
    if not (forbidden or assumed_drafts or masks or processors):
        return None
    edits = LogitEdits(processors)
    if forbidden:
        edits.forbidden = upload(np.concatenate(forbidden))
    if masks:
        edits.grammar_masks = upload(np.fromiter(masks, np.int64)), upload(np.stack(list(masks.values())))
    if assumed_drafts:
        draft_tokens = np.full((len(drafts), max(assumed_drafts)), -1, np.int64)
        for line, draft in enumerate(drafts):
            draft_tokens[line, : len(draft)] = draft
        edits.draft_tokens = upload(draft_tokens)
        edits.assumed_drafts = [_pairs(assumed_drafts[count], upload) for count in sorted(assumed_drafts)]
    return edits


def _forbidden(request: Request, draft: Sequence[int], must_end: bool) -> Iterator[int]:
    if not must_end and request.num_output_tokens + len(draft) < request.params.min_tokens:
        yield from request.end_token_ids
    yield from request.bad_words.single
    yield from request.bad_words.completing(request.tokens, request.num_prompt_tokens, draft)


def _pairs(pairs: Sequence[tuple[int, int]], upload: Upload) -> tuple[Tensor, Tensor]:
    first, second = upload(np.array(pairs, np.int64).T.copy())
    return first, second

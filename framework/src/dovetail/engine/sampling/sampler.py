"""From logits to tokens: the order of all sampling operations.

Order, as in vLLM: logits processors, logit bias and allowed tokens, penalties, what the host forbids, temperature, min-p, top-k, top-p, draw.

Letters: L lines (sampled positions), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dovetail.engine.sampling import tables as columns
from dovetail.engine.sampling.draw import compute_weights, draw, draw_sorted
from dovetail.engine.sampling.edits import LogitEdits
from dovetail.engine.sampling.logprobs import Logprobs, compute_logprobs
from dovetail.engine.sampling.metadata import LineGroup, SamplingMetadata
from dovetail.engine.sampling.penalties import Penalties
from dovetail.engine.sampling.processed import apply_draw
from dovetail.engine.sampling.random_bits import uniform
from dovetail.engine.sampling.stable_topk import stable_topk
from dovetail.engine.sampling.tables import SamplingTables
from dovetail.engine.sampling.top_p_radix import draw_filtered

NO_TOKEN = -1
"""The result where every token was forbidden."""
NOT_NUMBERS = -2
"""The result where a logit of an allowed token is NaN, so that no token is the likeliest, and none can be drawn. Where
the model gave numbers, and the request's logits processor at place p made NaN of them, the result is ``NOT_NUMBERS - 1 -
p``.
"""
CHUNK = 64
"""Lines that are sampled at a time. Their integer weights take 8 bytes a token, 64 MiB for 64 lines of 128k."""


@dataclass
class Sampled:
    """The sampler's result.

    Attributes:
        tokens: int64 ``[L]``, in the vocabulary; :data:`NO_TOKEN` where everything was forbidden, and
            :data:`NOT_NUMBERS` where the logits are none.
        inputs: int64 ``[L]``, the same with some token of the vocabulary for the lines without one: what a step that
            follows at once computes with.
        logprobs: of the unchanged logits, or of the processed ones, as ``--logprobs-mode`` says; None if no line needs
            them.
    """

    tokens: Tensor
    inputs: Tensor
    logprobs: Logprobs | None


@dataclass
class Lines:
    """Some lines of a step with their parameters, all on the device.

    Attributes:
        scores: ``[L, V]``.
        floats, numbers: their rows of the tables.
        uniforms: int64 ``[L]``.
        top: ``[L, 1]``, the greatest score of each line, NaN if there is one; set once they are drawn.
    """

    scores: Tensor
    floats: Tensor
    numbers: Tensor
    uniforms: Tensor
    top: Tensor | None = None

    def weights(self, scores: Tensor, min_p: bool) -> Tensor:
        """Integer weights of scores that include each line's greatest; see
        :func:`~dovetail.engine.sampling.draw.compute_weights`.
        """
        floors = self.numbers[:, columns.MIN_P] if min_p else None
        self.top = scores.amax(-1, keepdim=True)
        return compute_weights(scores, self.top, self.floats[:, columns.TEMPERATURE], floors)


DrawFunction = Callable[[Lines], Tensor]
"""A function that samples lines; returns their tokens, int64 ``[L]``."""


def sample(
    logits: Tensor,
    rows: Tensor,
    positions: Tensor,
    tables: SamplingTables,
    metadata: SamplingMetadata,
    edits: LogitEdits | None,
) -> Sampled:
    """Sample the next token of each line.

    It never waits for the device. With simple metadata without a size (``SamplingMetadata()``,
    ``SamplingMetadata(has_random=True)``) it can be captured in a graph.

    Args:
        logits: ``[L, V]``, any float dtype, contiguous; may be changed in place where they are float32.
        rows: int64 ``[L]``, of ``tables``, which have been flushed.
        positions: int64 ``[L]``, the index of the sampled token in its sequence, from 0.
        tables: parameters of the rows; the sampled tokens are added to their counts.
        metadata: of the lines' requests, in order.
        edits: from :func:`~dovetail.engine.sampling.edits.build_logit_edits` for these lines.
    """
    assert metadata.size in (None, logits.shape[0]), "the metadata is made from one request for each line"
    scores, forbidden, makers = logits, None, None
    if metadata.bias or metadata.penalties or edits is not None:
        scores, makers = _process_logits(logits, rows, tables, metadata, edits)
        if metadata.bias or edits is not None:
            forbidden = scores.amax(-1) == -torch.inf
    tokens, not_numbers = _choose(scores, rows, positions, tables, metadata)
    if metadata.penalised_lines is not None:
        theirs, chosen, places = _select_lines(metadata.penalised_lines, tables, rows, tokens, positions)
        slots = tables.numbers[:, columns.COUNTS].index_select(0, theirs)
        times, drafts = (None, 0) if edits is None else (edits.count_accepted(chosen), len(edits.assumed_drafts))
        tables.counts.count(slots, chosen, places, times, drafts)
    logprobs = None
    if metadata.logprobs is not None:
        shown = logits
        if tables.logprobs_mode.startswith("processed"):
            floats, numbers = tables.floats.index_select(0, rows), tables.numbers.index_select(0, rows)
            shown = apply_draw(scores, floats, numbers, has_filters=metadata.has_filters)
        normalize = tables.logprobs_mode.endswith("logprobs")
        logprobs = compute_logprobs(shown, tokens, metadata.logprobs, normalize=normalize)
    if makers is None:
        found = tokens.masked_fill(not_numbers, NOT_NUMBERS)
    else:
        found = torch.where(not_numbers, NOT_NUMBERS - makers, tokens)
    return Sampled(found if forbidden is None else found.masked_fill_(forbidden, NO_TOKEN), tokens, logprobs)


def _process_logits(
    logits: Tensor, rows: Tensor, tables: SamplingTables, metadata: SamplingMetadata, edits: LogitEdits | None
) -> tuple[Tensor, Tensor | None]:
    """Scores after bias, penalties and edits, in float32; they are a copy if the logits are still needed. And which
    logits processors made NaN, int64 ``[L]``: the place of each line's among its request's, from 1; 0 for none. None
    where there are no processors.
    """
    scores, makers = logits.float(), None
    if scores is logits and metadata.logprobs is not None:
        scores = logits.clone()
    if edits is not None:
        for call in edits.processors:
            made = call.apply(scores)
            if makers is None:
                makers = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
            theirs = makers.index_select(0, call.lines)
            makers.index_copy_(0, call.lines, torch.where(made, call.place + 1, theirs))
    if metadata.biased_lines is not None:
        lines = _get_line_index(metadata.biased_lines, tables, rows)
        slots = tables.numbers[:, columns.BIAS].index_select(0, rows.index_select(0, lines))
        scores.index_add_(0, lines, tables.biases.values.index_select(0, slots))
    if metadata.penalised_lines is not None:
        lines = _get_line_index(metadata.penalised_lines, tables, rows)
        (theirs,) = _select_lines(metadata.penalised_lines, tables, rows)
        floats = tables.floats.index_select(0, theirs)
        penalties = Penalties(
            floats[:, columns.REPETITION, None] if metadata.repetition else None,
            floats[:, columns.PRESENCE, None] if metadata.presence else None,
            floats[:, columns.FREQUENCY, None] if metadata.frequency else None,
        )
        slots = tables.numbers[:, columns.COUNTS].index_select(0, theirs)
        tables.counts.penalise(scores, lines, slots, penalties, None if edits is None else edits.draft_tokens)
    if edits is not None:
        edits.apply(scores)
    return scores, makers


def _choose(
    scores: Tensor, rows: Tensor, positions: Tensor, tables: SamplingTables, metadata: SamplingMetadata
) -> tuple[Tensor, Tensor]:
    """The tokens, int64 ``[L]``, and the lines with NaN, bool ``[L]``. Both greedy and random sampling find each line's
    greatest score, which is NaN there, so that costs a look at L scores.
    """
    if not metadata.has_random:
        return tables.find_likeliest(scores)
    floats, numbers = tables.floats.index_select(0, rows), tables.numbers.index_select(0, rows)
    every = Lines(scores, floats, numbers, uniform(numbers[:, columns.SEED], positions))
    if metadata.size is None:
        # Greedy lines draw too, and then take the likeliest all the same: one graph serves every mixture.
        likeliest, not_numbers = tables.find_likeliest(scores)
        drawn, _ = _draw_in_chunks(every, _draw_full)
        return torch.where(floats[:, columns.TEMPERATURE] > 0, drawn, likeliest), not_numbers

    vocabulary = scores.shape[1]
    small_top_k = partial(_draw_small_top_k, width=min(metadata.width, vocabulary))
    free = _draw_min_p if metadata.min_p else _draw_full
    filtered = _draw_top_k_top_p if metadata.has_large_top_k else _draw_top_p
    if tables.sorts:
        filtered = partial(_draw_small_top_k, width=vocabulary)
    drawing: tuple[tuple[LineGroup | None, DrawFunction], ...] = (
        (metadata.full, free),
        (metadata.small_top_k, small_top_k),
        (metadata.filtered, filtered),
    )
    for group, draw_lines in drawing:
        if group is not None and group.lines is None:
            return _draw_in_chunks(every, draw_lines)
    tokens, not_numbers = tables.find_likeliest(scores)
    for group, draw_lines in drawing:
        if group is not None:
            lines = _get_line_index(group, tables, tokens)
            tokens.index_copy_(0, lines, _draw_in_chunks(every, draw_lines, lines)[0])
    return tokens, not_numbers


def _draw_in_chunks(every: Lines, draw_lines: DrawFunction, lines: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Run ``draw_lines`` on some lines, or all, in chunks. The tokens, and which of these lines hold NaN."""
    parts, tops = [], []
    count = len(every.scores) if lines is None else len(lines)
    for start in range(0, count, CHUNK):
        parameters = (every.scores, every.floats, every.numbers, every.uniforms)
        if lines is None:
            some = [values[start : start + CHUNK] for values in parameters]
        else:
            some = [values.index_select(0, lines[start : start + CHUNK]) for values in parameters]
        chunk = Lines(some[0].float(), *some[1:])
        parts.append(draw_lines(chunk))
        assert chunk.top is not None, "weights() was not called"
        tops.append(chunk.top)
    if len(parts) == 1:
        return parts[0], tops[0][:, 0].isnan()
    return torch.cat(parts), torch.cat(tops)[:, 0].isnan()


def _draw_full(lines: Lines) -> Tensor:
    """Draw without filters."""
    return draw(lines.weights(lines.scores, min_p=False), lines.uniforms)


def _draw_min_p(lines: Lines) -> Tensor:
    """Draw with min-p over the whole vocabulary."""
    return draw(lines.weights(lines.scores, min_p=True), lines.uniforms)


def _draw_small_top_k(lines: Lines, width: int) -> Tensor:
    """Draw with top-k (and top-p, min-p) from the ``width`` best tokens."""
    values, ids = stable_topk(lines.scores, width)
    weights = lines.weights(values, min_p=True)
    place = draw_sorted(weights, lines.numbers[:, columns.TOP_K], lines.numbers[:, columns.TOP_P], lines.uniforms)
    return ids.gather(1, place[:, None])[:, 0]


def _draw_top_p(lines: Lines) -> Tensor:
    """Draw with top-p over the whole vocabulary."""
    weights = lines.weights(lines.scores, min_p=True)
    return draw_filtered(lines.scores, weights, None, lines.numbers[:, columns.TOP_P], lines.uniforms)


def _draw_top_k_top_p(lines: Lines) -> Tensor:
    """Draw with top-k and top-p over the whole vocabulary."""
    weights = lines.weights(lines.scores, min_p=True)
    top_k, top_p = lines.numbers[:, columns.TOP_K], lines.numbers[:, columns.TOP_P]
    return draw_filtered(lines.scores, weights, top_k, top_p, lines.uniforms)


def _get_line_index(group: LineGroup, tables: SamplingTables, like: Tensor) -> Tensor:
    """A group's lines on the device."""
    return torch.arange(len(like), device=like.device) if group.lines is None else tables.upload(group.lines)


def _select_lines(group: LineGroup, tables: SamplingTables, *values: Tensor) -> tuple[Tensor, ...]:
    """Select a group's lines from tensors ``[L, ...]``."""
    if group.lines is None:
        return values
    lines = tables.upload(group.lines)
    return tuple(some.index_select(0, lines) for some in values)

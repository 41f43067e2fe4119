"""Conformance tests of logits processors."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dovetail.api import LogitsProcessor, LogitsProcessorCard, LogitsProcessorContext, LogitsRow, RequestError
from dovetail.engine.request.logits_processors import read_arguments
from dovetail.kernel.blame import check_class, describe_type
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.plan_parts import LogitsProcessorPlan
from dovetail.testing.comparison import label
from dovetail.testing.resolution import claim, part_of, refusal_message

UNKNOWN = "no_such_argument"


def check_logits_processor(
    card: LogitsProcessorCard,
    *arguments: Mapping[str, Any],
    vocab_size: int = 64,
    device: str = "cpu",
    steps: int = 40,
) -> None:
    """Check a logits processor's card and interface.

    Checks that unknown arguments are refused by name; that every call gives logits of the same shape and dtype, none of
    them NaN or plus infinity; that the sequences are not changed; and, with sequences that start, grow, pause and end
    as in an engine, that the result of each is the same alone and in any batch.

    Args:
        arguments: of requests, at least one set; sequences use them in turn.
        vocab_size: of the logits.
        device: where the logits are.
        steps: of the batch.

    Raises:
        AssertionError: names the claim that failed.
    """
    assert arguments, f"{label(card)}: give the arguments of a request, {{}} for none"
    plan = LogitsProcessorPlan(name=card.name, target=card.target, config=card.config)
    if card.config is not None:
        with claim(f"{label(card)}: reading its arguments"):
            text = refusal_message(lambda: read_arguments(plan, {**arguments[0], UNKNOWN: 1}), RequestError)
        assert text is not None, (
            f"{label(card)}: its config {card.config} takes an unknown argument; let it forbid extra fields"
        )
        assert UNKNOWN in text, f"{label(card)}: the refusal of an unknown argument does not name it: {text}"
    with claim(f"{label(card)}: reading its arguments"):
        read = [read_arguments(plan, dict(given)) for given in arguments]
    together = _make(card, vocab_size, device)
    _exercise(card, together, lambda: _make(card, vocab_size, device), read, vocab_size, device, steps)


def _make(card: LogitsProcessorCard, vocab_size: int, device: str) -> LogitsProcessor:
    with claim(f"{label(card)}: making it"):
        made = import_dotted(card.target)
        check_class(part_of(card), card.target, made, LogitsProcessor)
        processor: LogitsProcessor = made(LogitsProcessorContext(vocab_size, torch.device(device)))
    return processor


def _exercise(
    card: LogitsProcessorCard,
    together: LogitsProcessor,
    make: Any,
    arguments: Sequence[dict[str, Any]],
    vocab_size: int,
    device: str,
    steps: int,
) -> None:
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    running: list[
        tuple[LogitsRow, LogitsProcessor, LogitsRow]
    ] = []  # in the batch; and alone, with a processor of its own
    begun = 0
    for step in range(steps):
        while len(running) < 2 or (len(running) < 6 and rng.random() < 0.3):
            prompt = [rng.randrange(vocab_size) for _ in range(rng.choice([1, 2, 20]))]
            args = arguments[begun % len(arguments)]
            first, second = (LogitsRow(str(begun), args, list(prompt), len(prompt)) for _ in range(2))
            running.append((first, make(), second))
            begun += 1
        some = [each for each in running if rng.random() < 0.7] or running[:1]
        rng.shuffle(some)
        logits = torch.randn(len(some), vocab_size, generator=generator).to(device)
        found = _apply(card, together, logits, [row for row, _, _ in some], step)
        for line, (_, alone, row) in enumerate(some):
            own = _apply(card, alone, logits[line : line + 1], [row], step)[0]
            assert torch.allclose(found[line], own, atol=1e-5, equal_nan=True), (
                f"{label(card)}: step {step}: a sequence gets other logits in a batch of {len(some)} than alone"
            )
            token = int(own.argmax()) if rng.random() < 0.5 else rng.randrange(vocab_size)
            for each in (some[line][0], row):
                each.tokens.append(token)  # type: ignore[attr-defined]  # it is a list
        running = [each for each in running if len(each[0].tokens) < 40 and rng.random() > 0.05]


def _apply(
    card: LogitsProcessorCard, processor: LogitsProcessor, logits: Tensor, rows: Sequence[LogitsRow], step: int
) -> Tensor:
    given, before = logits.clone(), [list(row.tokens) for row in rows]
    where = f"{label(card)}: step {step}"
    with claim(where), torch.inference_mode():
        changed = processor.apply(given, rows)
    changed = given if changed is None else changed
    assert [list(row.tokens) for row in rows] == before, f"{where}: a sequence's tokens were changed"
    assert isinstance(changed, Tensor), f"{where}: apply() gave {describe_type(changed)}, wanted logits or None"
    assert changed.shape == logits.shape, f"{where}: logits of {list(changed.shape)}, wanted {list(logits.shape)}"
    assert changed.dtype == logits.dtype, f"{where}: logits in {changed.dtype}, wanted {logits.dtype}"
    assert not (changed.isnan() | changed.isposinf()).any(), f"{where}: some logit is NaN or plus infinity"
    return changed

"""Conformance tests of models that see.

Letters: N rows of an image, C channels, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dovetail.api import ImageProcessor, ModelCard, ProcessedImage
from dovetail.engine.messages import ImageInput
from dovetail.engine.step.rope_positions import find_rope_positions
from dovetail.kernel.discovery import import_dotted
from dovetail.nn import Context, PoolingModel
from dovetail.testing.comparison import assert_close, label, tolerance
from dovetail.testing.harness import build_model, one_thread, parse_config, random_checkpoint, run_batch
from dovetail.testing.host_reads import host_reads_refused
from dovetail.testing.resolution import claim
from dovetail.testing.unused import check_all_is_used

SIZES = ((40, 30), (23, 61), (64, 64))
"""Width and height of the pictures."""
BEFORE, BETWEEN, AFTER = [1, 2, 3], [4], [5, 6]
"""Tokens of the prompt around its two images."""


@one_thread()
def check_images(
    card: ModelCard,
    config: Mapping[str, Any],
    preprocessing: Mapping[str, Any] | None = None,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> None:
    """Check a card's ``processor`` and its model's ``embed_image``, with a tiny configuration and random weights.

    Checks that the model uses every layer that it asks checkpoints for, for text or for an image; that an image is processed to the same result each time, with as many rows as the model embeds; that embedding
    reads nothing on the host; that a prompt with two images gives the same logits whole and in chunks, also ones that
    end within an image, and that another picture changes the logits of its own tokens and those after, and of none
    before.

    Args:
        config: as in ``config.json``, small. The vocabulary has more than 6 tokens.
        preprocessing: keys of ``preprocessor_config.json``.
        sizes: width and height of the pictures, two or more.

    Raises:
        AssertionError: names the claim that failed.
    """
    assert card.processor is not None, f"{label(card)} has no processor"
    image_module: Any = import_module("PIL.Image")
    with claim(f"{label(card)}: its processor accepts {dict(preprocessing or {})}"):
        processor: ImageProcessor = import_dotted(card.processor)(parse_config(card, config), dict(preprocessing or {}))
    unread = sorted((preprocessing or {}).keys() - processor.keys)
    assert not unread, f"{label(card)}: its processor does not list {', '.join(unread)} in keys"
    model, ctx = build_model(card, config, random_checkpoint(card, config))
    values = np.random.default_rng(0)
    pictures = [
        image_module.fromarray(values.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes
    ]
    images = [processor.process(picture) for picture in pictures]
    for picture, image in zip(pictures, images, strict=True):
        _check_repeated(card, image, processor.process(picture))
    rows = [_embed(card, model, ctx, image) for image in images]
    check_all_is_used(card, config, lambda seen, context: _embed(card, seen, context, images[0]))
    first, second, third = (0, 1, len(images) - 1) if len(images) > 2 else (0, 1, 0)
    expected, before = _run(processor, model, ctx, images, rows, (first, second), None)
    for size in (1, 5):
        found, _ = _run(processor, model, ctx, images, rows, (first, second), size)
        assert_close(found, expected, tolerance(torch.float32, 400), f"{label(card)}: the logits in chunks of {size}")
    other, _ = _run(processor, model, ctx, images, rows, (first, third), None)
    assert_close(other[:before], expected[:before], 1e-5, f"{label(card)}: logits before the image that was changed")
    assert (other[-1] - expected[-1]).norm() > 1e-4 * expected[-1].norm(), (
        f"{label(card)}: another picture gives the same logits"
    )


def _check_repeated(card: ModelCard, image: ProcessedImage, again: ProcessedImage) -> None:
    text = f"{label(card)}: process()"
    assert isinstance(image, ProcessedImage), f"{text} gives a {type(image).__name__}, wanted a ProcessedImage"
    assert image.rows, f"{text} gives an image without rows"
    ends = [place for start, end in image.rows for place in (start, end)]
    assert ends == sorted(ends), f"{text} gives rows {list(image.rows)}, wanted ranges in order"
    assert 0 <= ends[0] <= ends[-1] <= len(image.tokens), f"{text} gives rows outside of its {len(image.tokens)} tokens"
    same = image.arrays.keys() == again.arrays.keys() and all(
        np.array_equal(array, again.arrays[name]) for name, array in image.arrays.items()
    )
    same = same and list(image.tokens) == list(again.tokens)
    assert same, f"{text} gives something else for the same picture"


def _embed(card: ModelCard, model: PoolingModel, ctx: Context, image: ProcessedImage) -> Tensor:
    arrays = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in image.arrays.items()}
    with torch.inference_mode(), host_reads_refused(ctx):
        made = model.embed_image(arrays)
    count = sum(end - start for start, end in image.rows)
    text = f"{label(card)}: embed_image() gives {list(made.shape)}, wanted {count} rows of the processor's"
    assert tuple(made.shape[:-1]) == (count,), text
    assert torch.isfinite(made).all(), f"{label(card)}: embed_image() gives numbers that are not finite"
    return made


def _run(
    processor: ImageProcessor,
    model: PoolingModel,
    ctx: Context,
    images: Sequence[ProcessedImage],
    rows: Sequence[Tensor],
    which: tuple[int, int],
    chunk: int | None,
) -> tuple[Tensor, int]:
    """The logits of a prompt with two of the images, ``[T, V]``, and where the second begins."""
    mark = [processor.placeholder]
    tokens, starts = processor.place([*BEFORE, *mark, *BETWEEN, *mark, *AFTER], [images[n] for n in which])
    embedded: dict[int, Tensor] = {}
    for start, n in zip(starts, which, strict=True):
        places = [start + place for first, end in images[n].rows for place in range(first, end)]
        embedded |= dict(zip(places, rows[n], strict=True))
    size = chunk or len(tokens)
    schedule = [{0: tokens[at : at + size]} for at in range(0, len(tokens), size)]
    inputs = [
        ImageInput(b"", start, len(images[n].tokens), list(images[n].rows), {}, images[n].grid)
        for start, n in zip(starts, which, strict=True)
    ]
    axes = find_rope_positions(len(tokens), inputs)
    turned = None if axes is None else torch.from_numpy(axes[0])
    return run_batch(model, ctx, schedule, {0: embedded}, turned)[0], starts[1]

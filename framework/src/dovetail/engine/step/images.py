"""Embeddings of images in a step: computed with the first chunk that reaches into an image, and kept for the next ones.

Letters: N rows of embeddings, C channels.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dovetail.engine.messages import ImageInput
from dovetail.engine.step.input_batch import StepWork
from dovetail.kernel.blame import blame, wrong_answer
from dovetail.kernel.plan_parts import Part
from dovetail.nn.model import PoolingModel
from dovetail.nn.platform import Platform


class ImageEmbedder:
    """Computes embeddings of images, each once while its prompt is being computed.

    Args:
        part: the model, which errors name.
        max_bytes: what is kept. The newest is kept in any case: the next chunk of its prompt needs it.
    """

    def __init__(self, part: Part, platform: Platform, max_bytes: int) -> None:
        self.platform = platform
        self.max_bytes = max_bytes
        self._part = part
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._size = 0

    def embed(self, model: PoolingModel, work: StepWork) -> tuple[Tensor, Tensor] | None:
        """The rows of a step's tokens that are embeddings of images, and those embeddings: int64 ``[N]``, ``[N, C]``;
        None if the step computes none.
        """
        indices: list[np.ndarray] = []
        found: list[Tensor] = []
        begin = 0
        for request, count, total in zip(
            work.requests, work.num_scheduled_tokens.tolist(), work.seq_lens.tolist(), strict=True
        ):
            first = total - count
            for image in request.images:
                if image.start >= total or image.start + image.length <= first:
                    continue
                row = 0
                for start, end in image.rows:
                    low, high = max(image.start + start, first), min(image.start + end, total)
                    if low < high:
                        skipped = low - image.start - start
                        found.append(self._find(model, image)[row + skipped : row + skipped + high - low])
                        indices.append(np.arange(begin + low - first, begin + high - first))
                    row += end - start
            begin += count
        if not found:
            return None
        return self.platform.upload(np.concatenate(indices)), torch.cat(found)

    def forget(self) -> None:
        """Free all embeddings."""
        self._kept.clear()
        self._size = 0

    def _find(self, model: PoolingModel, image: ImageInput) -> Tensor:
        found = self._kept.get(image.key)
        if found is not None:
            self._kept.move_to_end(image.key)
            return found
        rows = sum(end - start for start, end in image.rows)
        with blame(self._part, "to embed an image (embed_image)", in_step=True):
            made: Any = model.embed_image({name: self._upload(array) for name, array in image.arrays.items()})
        if not (isinstance(made, Tensor) and made.ndim == 2 and made.shape[0] == rows):
            raise wrong_answer(self._part, "embed_image()", made, f"embeddings [{rows}, C]")
        self._kept[image.key] = made
        self._size += made.nbytes
        while self._size > self.max_bytes and len(self._kept) > 1:
            self._size -= self._kept.popitem(last=False)[1].nbytes
        return made

    def _upload(self, array: Any) -> Tensor:
        values = np.frombuffer(array.data, array.dtype).reshape(array.shape)
        return self.platform.upload(values.copy())  # torch warns of memory that it must not write

"""Images in prompts: what a model's package makes of a picture before the engine sees it.

A processor runs in the API's process, where there is no torch, and gives numpy arrays. The model makes embeddings of them
on the device (:meth:`dovetail.nn.PoolingModel.embed_image`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dovetail.api.config import ModelConfig
from dovetail.api.errors import RequestError


@dataclass(frozen=True, slots=True)
class ProcessedImage:
    """A picture as a model takes it.

    Attributes:
        tokens: what stands for it in the prompt, in place of the placeholder.
        rows: ranges ``(start, end)`` of ``tokens`` whose embeddings the model computes from ``arrays``, in order. The
            other tokens, such as line ends of a picture, have the embeddings of the vocabulary.
        grid: for models whose rotary positions have axes (:attr:`dovetail.api.RopeParameters.sections`): time, height and
            width of the grid that the rows form, the last fastest. The rows have the positions of their places in it,
            from that of the first on, and the text after them goes on past its longest side. None if an image's tokens
            are counted like those of a text.
        arrays: numpy arrays of any shapes, by name, for :meth:`dovetail.nn.PoolingModel.embed_image`.
    """

    tokens: Sequence[int]
    rows: Sequence[tuple[int, int]]
    arrays: Mapping[str, Any]
    grid: tuple[int, int, int] | None = None


class ImageProcessor(ABC):
    """Prepares pictures for a model, named by :attr:`dovetail.api.ModelCard.processor`. Its module imports neither torch
    nor Pillow when it is imported, because servers of texts import it, too; it is called from several threads.

    Attributes:
        keys: class attribute, the keys of ``preprocessor_config.json`` that it reads. Users may set those, and no
            others, with ``--mm-processor-kwargs``.
        placeholder: the token that chat templates and prompts have in the place of a picture.
        placeholder_text: its text, with what models want around it where no chat template writes it; None for the
            token's own.

    Args:
        config: the model's.
        preprocessing: those of ``keys`` that the file or the user has; null is as if a key were not there.
    """

    keys: ClassVar[frozenset[str]] = frozenset()
    placeholder: int
    placeholder_text: str | None = None

    @abstractmethod
    def __init__(self, config: ModelConfig, preprocessing: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def process(self, image: Any) -> ProcessedImage:
        """Prepare one picture. The result depends on nothing but the picture.

        Args:
            image: a ``PIL.Image.Image`` in RGB.

        Raises:
            RequestError: the model cannot take it, such as one that is too narrow.
        """

    def place(self, prompt: Sequence[int], images: Sequence[ProcessedImage]) -> tuple[list[int], list[int]]:
        """Put the images' tokens into a prompt, in place of its placeholders, in order.

        Returns:
            The new prompt, and where in it the tokens of each image begin.

        Raises:
            RequestError: there are not as many placeholders as images.
        """
        found = sum(token == self.placeholder for token in prompt)
        if found != len(images):
            raise RequestError(
                f"the prompt has {found} places for images (token {self.placeholder}), and {len(images)} images were given",
                "write one placeholder for each image; in a conversation, the chat template does",
                param="messages",
            )
        placed: list[int] = []
        starts: list[int] = []
        left = iter(images)
        for token in prompt:
            if token == self.placeholder:
                starts.append(len(placed))
                placed += next(left).tokens
            else:
                placed.append(token)
        return placed, starts

"""What the engine gets of the images of a prompt: processed, placed among the token ids, and kept for the next time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any

from dovetail.api.errors import RequestError, UsageError
from dovetail.api.images import ImageProcessor, ProcessedImage
from dovetail.api.json_files import read_json
from dovetail.engine.args import EngineArgs
from dovetail.engine.images.decode import decode_image, make_rgb
from dovetail.engine.images.places import read_place, refuse
from dovetail.engine.images.rules import ImageRules, read_cache_bytes
from dovetail.engine.messages import ImageArray, ImageInput
from dovetail.kernel.blame import blame, check_class, wrong_answer
from dovetail.kernel.discovery import import_part
from dovetail.kernel.plan import Plan

KEY_BYTES = 32
IMAGE_TOKENS_PARAM = "messages"


@dataclass(frozen=True, slots=True)
class PromptWithImages:
    """A prompt whose images have their places.

    Attributes:
        token_ids: with as many tokens for each image as it takes.
    """

    token_ids: list[int]
    images: list[ImageInput]


class _Cache:
    """The images that were processed last, up to a number of bytes. Used by several threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size = 0
        self._entries: OrderedDict[bytes, tuple[ProcessedImage, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> ProcessedImage | None:
        with self._lock:
            if (found := self._entries.get(key)) is None:
                return None
            self._entries.move_to_end(key)
            return found[0]

    def put(self, key: bytes, image: ProcessedImage) -> None:
        size = sum(len(array.data) for array in image.arrays.values()) + 8 * len(image.tokens)
        if size > self.max_bytes:
            return
        with self._lock:
            if key not in self._entries:
                self._entries[key] = image, size
                self.size += size
            while self.size > self.max_bytes:
                self.size -= self._entries.popitem(last=False)[1][1]


class ImageInputs:
    """Makes the engine's inputs of images. Its methods take long, and are called from threads.

    Args:
        plan: of a model with a processor.

    Raises:
        UsageError: the options are contradictory.
        PluginError: the model's processor fails.
    """

    def __init__(self, plan: Plan, args: EngineArgs) -> None:
        assert plan.processor is not None
        self.rules = ImageRules.from_args(args)
        self.cache = _Cache(read_cache_bytes())
        self._part = part = plan.model_part.part
        found: type[ImageProcessor] = import_part(part, plan.processor)
        check_class(part, plan.processor, found, ImageProcessor)
        if unknown := sorted(args.mm_processor_kwargs.keys() - found.keys):
            raise UsageError(
                f"--mm-processor-kwargs has {', '.join(unknown)}, which this model's processor does not read",
                f"it reads {', '.join(sorted(found.keys)) or 'none'}",
            )
        given = {**read_preprocessing(Path(plan.checkpoint.path)), **args.mm_processor_kwargs}
        read = {key: value for key, value in given.items() if key in found.keys and value is not None}
        with blame(part, "to prepare its image processor"):
            self.processor = found(plan.build_model_config(), read)

    def placeholder_text(self, token: str | None) -> str:
        """The text that stands for an image where no chat template writes it.

        Args:
            token: the text of the processor's placeholder.
        """
        return self.processor.placeholder_text or token or ""

    def check_count(self, count: int) -> None:
        """
        Raises:
            RequestError: these are too many images for a prompt.
        """
        if count > self.rules.max_images:
            raise refuse(
                f"{count} images were given for one prompt, and the limit is {self.rules.max_images} (--limit-mm-per-prompt)",
                "give fewer",
            )

    def prepare(self, token_ids: Sequence[int], images: Sequence[Any]) -> PromptWithImages:
        """Read, decode and process images, and put them into their prompt.

        Args:
            token_ids: with the processor's placeholders.
            images: URLs, or ``PIL.Image.Image`` objects.

        Raises:
            RequestError: an image cannot be read or processed, or there are not as many places.
        """
        self.check_count(len(images))
        read = [self._process(image) for image in images]
        with blame(self._part, "to place images in a prompt"):
            placed, starts = self.processor.place(token_ids, [image for _, image in read])
        inputs = [
            ImageInput(key, start, len(image.tokens), list(image.rows), dict(image.arrays), image.grid)
            for (key, image), start in zip(read, starts, strict=True)
        ]
        return PromptWithImages(placed, inputs)

    def _process(self, image: Any) -> tuple[bytes, ProcessedImage]:
        """The key of an image, which names its content, and what was made of it."""
        if isinstance(image, str):
            data = read_place(image, self.rules)
            key = blake2b(data, digest_size=KEY_BYTES, person=b"file").digest()
            if (found := self.cache.get(key)) is not None:
                return key, found
            image = decode_image(data, self.rules)
        else:
            image = make_rgb(_check_picture(image), self.rules)
            pixels = blake2b(image.tobytes(), digest_size=KEY_BYTES, person=b"pixels")
            pixels.update(repr(image.size).encode())
            key = pixels.digest()
            if (found := self.cache.get(key)) is not None:
                return key, found
        with blame(self._part, "to process an image"):
            processed: Any = self.processor.process(image)
        if not isinstance(processed, ProcessedImage) or not processed.rows:
            raise wrong_answer(self._part, "process()", processed, "a ProcessedImage with rows")
        if (grid := processed.grid) is not None and prod(grid) != sum(end - start for start, end in processed.rows):
            raise wrong_answer(self._part, "process()", grid, "a grid of as many places as there are rows")
        arrays = {
            name: ImageArray(str(array.dtype), list(array.shape), array.tobytes())
            for name, array in processed.arrays.items()
        }
        made = ProcessedImage(list(processed.tokens), processed.rows, arrays, processed.grid)
        self.cache.put(key, made)
        return key, made


def _check_picture(image: Any) -> Any:
    if not all(hasattr(image, name) for name in ("size", "mode", "convert", "tobytes")):
        raise RequestError(
            f"an image is a {type(image).__name__}", "give a PIL.Image.Image, or its URL", param=IMAGE_TOKENS_PARAM
        )
    return image


def read_preprocessing(folder: Path) -> dict[str, Any]:
    """How a checkpoint's images are prepared: ``preprocessor_config.json``, or what newer files have of it in
    ``processor_config.json``. Empty without both.

    Raises:
        ConfigError: a file cannot be read.
    """
    if not folder.is_dir():
        return {}
    found = read_json(folder / "preprocessor_config.json", dict)
    if not found:
        inner = read_json(folder / "processor_config.json", dict).get("image_processor")
        found = inner if isinstance(inner, dict) else {}
    return found

"""Decodes images with Pillow, within the limit of pixels."""

from __future__ import annotations

import io
from typing import Any

from dovetail.api.errors import UsageError
from dovetail.engine.images.places import refuse
from dovetail.engine.images.rules import ImageRules

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Those that clients send. Pillow knows many more, whose decoders nobody needs here and an attacker would look at."""


def import_pillow() -> Any:
    """The module ``PIL.Image``.

    Raises:
        UsageError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError(
            f"images need Pillow, which cannot be imported ({error})", "pip install dovetail[vision]"
        ) from None
    return Image


def decode_image(data: bytes, rules: ImageRules) -> Any:
    """An RGB ``PIL.Image.Image``, upright.

    Raises:
        RequestError: it is no image of :data:`FORMATS`, is damaged, or has too many pixels.
    """
    image_module = import_pillow()
    try:
        image = image_module.open(io.BytesIO(data), formats=FORMATS)
    except image_module.DecompressionBombError:
        raise _too_many_pixels("", rules) from None
    except Exception:  # decoders raise whatever they come across
        raise refuse(
            f"what was sent as an image is none of {', '.join(FORMATS)}", "send the bytes of an image's file"
        ) from None
    return make_rgb(image, rules)


def make_rgb(image: Any, rules: ImageRules) -> Any:
    """A picture as RGB and upright; transparent parts are white. Errors as of :func:`decode_image`."""
    from PIL import ImageOps

    width, height = image.size
    if not width or not height:
        raise refuse("an image has no pixels", "send another one")
    if width * height > rules.max_pixels:  # known before anything is decoded
        raise _too_many_pixels(f" ({width} x {height})", rules)
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode == "RGB":
            return image
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            white = import_pillow().new("RGBA", image.size, (255, 255, 255, 255))
            image = import_pillow().alpha_composite(white, image)
        return image.convert("RGB")
    except Exception as error:
        raise refuse(f"an image cannot be decoded ({type(error).__name__})", "it may be damaged or cut off") from None


def _too_many_pixels(size: str, rules: ImageRules) -> Exception:
    return refuse(
        f"an image has more than {rules.max_pixels} pixels{size}, the limit (--max-image-pixels)", "make it smaller"
    )

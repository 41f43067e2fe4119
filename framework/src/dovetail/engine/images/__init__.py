"""Images in prompts: where they are read from, how they are decoded, and the inputs that the engine gets of them. Nothing
of it is imported for a model that takes none, and Pillow only with the first image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dovetail.engine.args import EngineArgs
from dovetail.kernel.plan import Plan

if TYPE_CHECKING:
    from dovetail.engine.images.inputs import ImageInputs


def make_image_inputs(plan: Plan, args: EngineArgs) -> ImageInputs | None:
    """What makes inputs of images; None for a model that takes none. Errors as of
    :class:`~dovetail.engine.images.inputs.ImageInputs`.
    """
    if plan.processor is None:
        return None
    from dovetail.engine.images.inputs import ImageInputs

    return ImageInputs(plan, args)

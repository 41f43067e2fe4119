"""Types of the numbers in configurations: what is no count or size that a model can have is refused by the key's name."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

MAX_LAYERS, MAX_HEADS, MAX_HEAD_DIM, MAX_SIZE, MAX_POSITIONS = 10_000, 2**14, 2**14, 2**24, 2**27
"""Bounds of configurations, several times what any published model has (126 layers, 256 heads of 512, rows of 53,248
numbers, a vocabulary of 262,144, contexts of 10 million tokens). Whatever a configuration makes a model allocate before
its weights are compared with the files, it is little with these; and it is an error that names the key.
"""

LayerCount = Annotated[int, Field(gt=0, le=MAX_LAYERS)]
HeadCount = Annotated[int, Field(gt=0, le=MAX_HEADS)]
HeadDim = Annotated[int, Field(gt=0, le=MAX_HEAD_DIM)]
Size = Annotated[int, Field(gt=0, le=MAX_SIZE)]
"""Rows or columns of a weight: a vocabulary, a hidden size."""
TokenId = Annotated[int, Field(ge=0, lt=MAX_SIZE)]
Positions = Annotated[int, Field(gt=0, le=MAX_POSITIONS)]
"""Tokens: a context, a window."""
Epsilon = Annotated[float, Field(gt=0, lt=1)]
"""What a norm adds so that it does not divide by zero."""


def integral(value: Any) -> Any:
    """A float that is a whole number as an int, and anything else as it is. Some writers of JSON know only one kind of
    number, and 4096.0 is as good a size as 4096.
    """
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value

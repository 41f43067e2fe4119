"""What scripts around the engine need: a parser of command lines that takes flags as users of other engines type them, and names for requests."""

from dovetail.utils.arguments import FlexibleArgumentParser
from dovetail.utils.ids import random_uuid

__all__ = ["FlexibleArgumentParser", "random_uuid"]

"""What scripts around the engine need: a parser of command lines that takes flags as users of other engines type them."""

from dovetail.utils.arguments import FlexibleArgumentParser

__all__ = ["FlexibleArgumentParser"]

"""Utilities for scripts: a command-line parser that accepts flags as users of other engines write them, and random
request ids.
"""

from dovetail.utils.arguments import FlexibleArgumentParser
from dovetail.utils.ids import random_uuid

__all__ = ["FlexibleArgumentParser", "random_uuid"]

"""The parser of command lines under vLLM's newer import path."""

from dovetail.utils.arguments import FlexibleArgumentParser

__all__ = ["FlexibleArgumentParser"]

"""The command-line parser under vLLM's newer import path."""

from dovetail.utils.arguments import FlexibleArgumentParser

__all__ = ["FlexibleArgumentParser"]

"""The shapes of prompts under vLLM's import path."""

from dovetail.engine.request.prompt_types import PromptType, TextPrompt, TokensPrompt

__all__ = ["PromptType", "TextPrompt", "TokensPrompt"]

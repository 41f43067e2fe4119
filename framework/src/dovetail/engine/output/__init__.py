"""Converts the engine's tokens to text deltas, logprobs and whole completions."""

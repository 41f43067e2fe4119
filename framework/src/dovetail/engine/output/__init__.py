"""From the engine's tokens to deltas of text, logprobs and whole completions."""

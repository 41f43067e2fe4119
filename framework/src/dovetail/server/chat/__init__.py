"""OpenAI's routes that generate: chat completions, stored ones, and completions."""

"""Clients of servers with OpenAI's API, in the terminal: chat, completions, batches, benchmarks."""

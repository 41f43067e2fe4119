"""What talks to servers with OpenAI's API, from the terminal: chat, completions, batches, benchmarks."""

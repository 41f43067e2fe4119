"""Messages and prompts to token ids."""

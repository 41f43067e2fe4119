"""From messages and prompts to token ids."""

"""Offline use: runs a model in this process, prompts in, texts or vectors out."""

"""Structured output in the engine: what a request may ask for, and the compilation of grammars beside the engine's steps."""

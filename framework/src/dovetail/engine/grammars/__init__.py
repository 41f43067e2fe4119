"""Structured output in the engine: checks of the requested formats, and the compilation of grammars in background
threads.
"""

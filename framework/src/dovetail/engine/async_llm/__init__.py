"""Asynchronous use: an engine in its own process, for the coroutines of a script."""

"""Asynchronous use: an engine in a process of its own, for the coroutines of a script."""

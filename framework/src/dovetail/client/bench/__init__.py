"""``dovetail bench``: benchmarks of servers and the engine, with the names and definitions of vLLM's benchmarks, so
that results can be compared.
"""

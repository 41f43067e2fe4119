"""``dovetail bench``: measures servers and the engine, with the names and definitions of vLLM's benchmarks, so that figures can be compared."""

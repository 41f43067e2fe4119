"""A request on the engine: sampling parameters, the run, and the answer, whole or as server-sent events."""

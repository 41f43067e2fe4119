"""Tools and reasoning: how a model is told of tools, how its output is parsed, and the format that it must have."""

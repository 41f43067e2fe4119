"""Tools and reasoning: how tools are written into the prompt, how the output is parsed, and the format that it must
have.
"""

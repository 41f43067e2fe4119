"""Chat templates: what they make of messages, which control tokens messages hold, and the process that runs them."""

"""The terminal chat: a client of any server with OpenAI's API."""

"""The bodies of requests: their models, fields and how they are read."""

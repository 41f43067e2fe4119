"""Request bodies: their models, fields and how they are read."""

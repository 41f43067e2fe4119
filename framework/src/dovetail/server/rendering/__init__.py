"""Chat templates: they run in processes of their own, which are killed when they take too long."""

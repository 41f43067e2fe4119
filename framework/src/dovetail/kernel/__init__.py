"""Discovery of plugins, their registry, and the resolution of a model and options into a Plan. Never imports torch."""

"""The kernel: discovers plugins, registers them, and resolves a model and options into a Plan. Never imports torch."""

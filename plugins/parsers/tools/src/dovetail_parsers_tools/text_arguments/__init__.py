"""Notations that write arguments as text: tags, Python, and notations of their own."""

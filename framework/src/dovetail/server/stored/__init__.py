"""Stored responses and chat completions: the database, and the two kinds in it."""

"""Notations that write the arguments of calls as JSON."""

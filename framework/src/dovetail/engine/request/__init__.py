"""Requests and results of the engine: parameters, their rules, outputs."""

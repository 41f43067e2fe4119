"""Samples that the conformance kit holds parsers and grammar backends to."""

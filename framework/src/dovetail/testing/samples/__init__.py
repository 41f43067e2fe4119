"""Samples for the conformance tests of parsers and grammar backends."""

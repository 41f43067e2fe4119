"""Parsing of arguments: the parser, its help, groups of options, options of other engines."""

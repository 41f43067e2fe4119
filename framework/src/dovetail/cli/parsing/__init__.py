"""How commands read their arguments: the parser, its help, groups of options, options of other engines."""

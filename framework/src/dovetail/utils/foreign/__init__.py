"""Tables of other engines' options and what each becomes here. Command lines, config files, keyword arguments and
the documentation read them.
"""

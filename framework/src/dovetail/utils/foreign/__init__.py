"""Options of other engines: what each becomes here. Command lines, files of flags, keyword arguments and the documents read the tables."""

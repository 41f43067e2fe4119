"""The server's processes: one or several API processes, the hub between them and the engine, supervision, signals."""

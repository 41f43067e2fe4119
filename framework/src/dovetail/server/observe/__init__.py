"""What the operator sees of requests: counters, metrics, the log, traces."""

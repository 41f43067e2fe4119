"""What operators observe: counters, metrics, the request log, traces."""

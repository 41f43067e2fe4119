"""KV cache management: block pools, the prefix cache, and the block tables of requests. No torch."""

"""The KV cache's bookkeeping: pools of blocks, the prefix cache, and what each request holds. No torch."""

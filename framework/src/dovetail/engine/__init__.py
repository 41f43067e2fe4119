"""From requests to tokens: scheduler, KV cache, batch, model runner, sampler; offline use, and the engine as a process."""

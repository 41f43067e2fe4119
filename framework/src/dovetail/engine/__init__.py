"""The inference engine: scheduler, KV cache, batch, model runner, sampler; offline use, and the engine as a process."""

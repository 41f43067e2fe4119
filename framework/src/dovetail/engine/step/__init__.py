"""One step of the engine after the other: scheduler, batch, model runner, speculation."""

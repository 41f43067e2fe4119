"""What a request asks of the engine and what it gets back: parameters, their rules, outputs."""

"""What an engine needs of each device, in bytes: weights, KV cache by vLLM's own rules, and everything beside them."""

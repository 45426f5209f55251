"""The engine of this process: MLX behind one thread, continuous batching, the prompt cache."""

"""The engine of this process: MLX on one thread, with continuous batching and a prompt cache."""

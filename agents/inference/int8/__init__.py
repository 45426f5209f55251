"""Int8 weights for CPUs: torch's kernels compute the linear layers of a model, MLX its attention."""

"""A model's weights as int8, for CPUs: products by torch's C interfaces, blocks in NumPy, the rest in MLX."""

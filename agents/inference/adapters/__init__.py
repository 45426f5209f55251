"""LoRA adapters of the MLX engine: their files, the bank of resident adapters, and batches that mix adapters."""

"""LoRA adapters of the MLX engine: files, the bank of resident ones, rows with different ones in one batch."""

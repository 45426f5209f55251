"""Adapters as files, read with NumPy: no model, no MLX, no bus.

:mod:`.folders` (where they lie, and the domain of each), :mod:`.tensors` (a safetensors file, tensor by tensor),
:mod:`.files` (an adapter of either layout, module by module), :mod:`.peft_names` (PEFT's names and scales),
:mod:`.low_rank` (changes as pairs of matrices), :mod:`.rules` (what a usable adapter is), :mod:`.shapes` (of a base's
modules), :mod:`.health`, :mod:`.angles`, :mod:`.gate` (the verdict), :mod:`.reports` (all of it as JSON).
"""

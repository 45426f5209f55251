"""The inference worker: the one process that imports MLX.

:mod:`agents.inference.agent` (reads turns and jobs, streams tokens, publishes), :mod:`agents.inference.engine` (the
thread that owns the model), :mod:`agents.inference.scheduler` (who is next; pure), :mod:`agents.inference.rows` (one
candidate while it is decoded), :mod:`agents.inference.text` (stop strings and reasoning; pure),
:mod:`agents.inference.sampling` (one random stream a row), :mod:`agents.inference.prefill` (one prompt pass for all
candidates), :mod:`agents.inference.scoring` (log-probabilities of given continuations),
:mod:`agents.inference.adapters` (the resident LoRA adapters), :mod:`agents.inference.lowrank` (their algebra and
files), :mod:`agents.inference.prompt` (messages to tokens), :mod:`agents.inference.blas` (a faster BLAS on CPU).
"""

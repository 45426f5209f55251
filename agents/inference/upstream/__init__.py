"""The engine that asks a server with OpenAI's interface: vLLM with LoRA modules, ``mlx_lm.server``, or another.

:mod:`.engine` is the engine, :mod:`.connection` its connection to the server, :mod:`.decoding` its candidates and
:mod:`.ballots` its votes; :mod:`.request` builds a call's body and :mod:`.response` reads the reply,
:mod:`.capabilities` finds out what the server can do, :mod:`.scoring` log-probabilities of choices, :mod:`.modules` its
adapters, :mod:`.queue` the order of calls, :mod:`.failures` what its errors mean here. No MLX.
"""

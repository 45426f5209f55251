"""A chat request from its body to its answer.

:mod:`.request` reads the body (tools: :mod:`.tools`), :mod:`.idempotency` finds or makes its turn, :mod:`.turns`
follows the turn, :mod:`.response` and :mod:`.stream` answer whole or in chunks.
"""

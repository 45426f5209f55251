"""A chat request from its body to its answer.

:mod:`.request` checks the body (:mod:`.fields`, :mod:`.messages`, :mod:`.tools`), :mod:`.idempotency` finds or makes
its turn, :mod:`.turns` follows the turn, :mod:`.response` reads the answer, and a :mod:`.dialect` writes it, whole or
as a :mod:`.stream`.
"""

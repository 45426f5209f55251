"""``kiki soak``: a whole runtime under faults, and a judgement of what its clients saw.

:mod:`~runtime.soak.clients` ask and write a :mod:`~runtime.soak.history`; :mod:`~runtime.soak.nemesis` breaks the
runtime of :mod:`~runtime.soak.scene` meanwhile; :mod:`~runtime.soak.judge` compares the history with the record.
"""

"""Other services and the record: who is registered, where each of them is, and what it has consumed.

Pure: :mod:`.registration` (a name, its consumer, what it wants). On the bus: :mod:`.cursor` (fetch and mark),
:mod:`.replay` and :mod:`.running_replays` (the record again), :mod:`.retention` (what may be dropped), :mod:`.flow`
(what kiki-flow asks, over :mod:`.stacks`), :mod:`.agent`.
"""

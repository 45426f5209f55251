"""Other services and the record: who is registered, how far each of them is, and what it has consumed.

:mod:`.registration` (a service's durable consumer), :mod:`.cursor` (fetch and mark), :mod:`.replay` (read a part of the
record), :mod:`.running_replays` (publish it), :mod:`.retention` (drop what every consumer has read), :mod:`.flow`
(requests of kiki-flow, with :mod:`.stacks`), :mod:`.agent` (all of that as requests), :mod:`.settings`.
"""

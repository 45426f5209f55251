"""Other services and the record: who is registered, how far each of them is, and what it has consumed.

:mod:`.registration` (what a service asks for), :mod:`.registry` (who is registered, in the log), :mod:`.cursor` (fetch
and mark), :mod:`.stock` (durable consumers for the stock tools), :mod:`.replay` (read a part of the record),
:mod:`.running_replays` (publish it), :mod:`.retention` (drop what every reader has read), :mod:`.flow` (requests of
kiki-flow, with :mod:`.stacks`), :mod:`.agent` (all of that as requests), :mod:`.settings`.
"""

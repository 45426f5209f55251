"""What several agents use; it is no agent itself.

:mod:`.model` (the calls of one stage to the model), :mod:`.agreement` and :mod:`.similarity` (whether answers say the
same), :mod:`.calibration` (label scores without the model's bias), :mod:`.follow_up` (a question about an answer),
:mod:`.excerpt` (text cut to a length), :mod:`.encoder` (the embedding model), :mod:`.disk` (syncing files to disk),
:mod:`.domains` (the niche domains and the router's outputs), :mod:`.adapters` (adapters as files).
"""

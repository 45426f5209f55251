"""Aeon: the record of answered turns, its projections into vectors and a graph, and recall from them.

Pure: :mod:`.episodes` (an answer becomes an episode), :mod:`.imports` (a line of a file does), :mod:`.concepts`
(what an episode is about), :mod:`.words` and :mod:`.context` (its words and meaning, with its neighbours'),
:mod:`.smalltalk`, :mod:`.ranking` (fusion, floor, budget), :mod:`.tokens`, :mod:`.clusters` (what belongs together). On
the bus: :mod:`.agent`, :mod:`.search` (one question to the stores), :mod:`.projection` (from the record into the
stores), :mod:`.progress` (how far that is), :mod:`.forgetting`, :mod:`.sleep` (summaries), :mod:`.rebuild` (one
tenant's stores again), :mod:`.priority` (recalls before records). :mod:`.stores` holds Atlas and Trace.
"""

"""Atlas and Trace: the vectors and the graph, embedded or on a server.

:mod:`.pair` opens both as the settings choose; :mod:`.protocols` says what each must do. Atlas: :mod:`.points` (what a
point is), :mod:`.edge` and :mod:`.qdrant`; :mod:`.generations`, :mod:`.optimise` and :mod:`.optimise_child` keep the
embedded one fast. Trace: :mod:`.trace` over :mod:`.ladybug` or :mod:`.neo4j`. :mod:`.embedded` runs a store on a
thread of its own, :mod:`.errors` translates the libraries' errors.
"""

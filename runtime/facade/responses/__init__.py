"""OpenAI's responses: turns whose answers may be read again, continued and deleted.

:mod:`.request` translates the body (:mod:`.items`, :mod:`.tools`) into a chat request, :mod:`.terms` is what a response
says of its request, :mod:`.dialect` writes the answer (:mod:`.output`), and :mod:`.earlier` finds the turn of an
earlier response.
"""

"""Anthropic's messages: :mod:`.request` translates the body into a chat request, with its blocks (:mod:`.blocks`), and
:mod:`.dialect` writes the answer."""

"""Stock clients, unchanged, against one live runtime.

A program per client (``python``, ``node``, ``go``, ``java``, ``rust``) runs named checks and prints one JSON object of
them: null, or what went wrong. Each runs in an environment of its own, never in the main one.

:mod:`tests.clients.catalogue`: the clients, their pins and their checks.
:mod:`tests.clients.environments`: builds what a program needs, once, into the user's cache, and runs it.
:mod:`tests.clients.cancelling`: lets a program have the turn cancelled that it follows.
"""

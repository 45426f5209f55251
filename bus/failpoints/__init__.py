"""Failpoints: places in the code at which a test makes a process die, or go slowly, and a clock that a test moves.

Off, unless the environment variable ``KIKI_FAILPOINTS`` names a folder. Then a file in it arms the window of its name
(:data:`WINDOWS`), and its text says what happens to a process that passes there:

    kill            the process dies by SIGKILL: one process, once, as the file is removed first
    sleep SECONDS   the process waits there, every time, for as long as the file is there

A file ``clock`` holds the seconds that ``time.time`` is ahead in all processes of agents, a negative number behind.
A name with a process's name behind it (``delivery.taken.router``, ``clock.memory``) means this process alone, and goes
before the name without. Write a file under another name and rename it, so that nobody reads the half of it.
"""

from bus.failpoints.clock import install_clock
from bus.failpoints.windows import FAILPOINTS, WINDOWS, pass_window, pass_window_in_thread

__all__ = ["FAILPOINTS", "WINDOWS", "install_clock", "pass_window", "pass_window_in_thread"]

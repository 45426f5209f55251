"""``python -m runtime`` is ``kiki``."""

from runtime.cli.__main__ import app

app(prog_name="kiki")

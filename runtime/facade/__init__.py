"""The HTTP facade: OpenAI's API over turns on the bus.

A request is read (:mod:`.body`), checked and made a query (:mod:`.chat.request`), published and followed
(:mod:`.chat.turns`, :mod:`.chat.idempotency`), and answered whole (:mod:`.chat.response`) or in chunks
(:mod:`.chat.stream`). Whatever goes wrong is an OpenAI error object (:mod:`.errors`).
"""

from runtime.facade.app import create_app
from runtime.facade.server import serve
from runtime.facade.settings import FacadeSettings

__all__ = ["FacadeSettings", "create_app", "serve"]

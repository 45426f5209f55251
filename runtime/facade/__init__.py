"""The HTTP facade: OpenAI's API over turns on the bus.

A request is read (:mod:`body`), checked and made a query (:mod:`asked`), published and followed (:mod:`turns`,
:mod:`claims`), and answered whole (:mod:`replies`) or in chunks (:mod:`stream`, :mod:`live`). Whatever goes wrong is
an OpenAI error object (:mod:`refusals`).
"""

from runtime.facade.app import create_app
from runtime.facade.server import serve
from runtime.facade.settings import FacadeSettings

__all__ = ["FacadeSettings", "create_app", "serve"]

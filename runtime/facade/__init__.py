"""The HTTP facade: OpenAI's API over turns on the bus.

:mod:`.routes` holds the endpoints; :mod:`.chat` takes a chat request from its body to its
answer. Beside them: the application (:mod:`.app`), the server around it (:mod:`.server`) and its :mod:`.settings`; the
parts that endpoints share and who may call them (:mod:`.dependencies`); request bodies (:mod:`.body`) and clients that
leave (:mod:`.disconnect`); refusals as OpenAI error objects (:mod:`.errors`); the access log (:mod:`.middleware`) and
counters (:mod:`.metrics`).
"""

from runtime.facade.app import create_app
from runtime.facade.server import serve
from runtime.facade.settings import FacadeSettings

__all__ = ["FacadeSettings", "create_app", "serve"]

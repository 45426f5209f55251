"""The HTTP facade: OpenAI's and Anthropic's interfaces over turns on the bus.

:mod:`.routes` holds the endpoints and :mod:`.openapi` the document that describes them. :mod:`.chat` takes a chat
request from its body to its answer; :mod:`.completions`, :mod:`.messages` and :mod:`.responses` are other dialects of
it. Beside them: the application (:mod:`.app`), the server around it (:mod:`.server`) and its :mod:`.settings`; the
parts that endpoints share and who may call them (:mod:`.dependencies`); request bodies (:mod:`.body`) and clients that
leave (:mod:`.disconnect`); refusals as error objects (:mod:`.errors`); the access log (:mod:`.middleware`) and counters
(:mod:`.metrics`).
"""

from runtime.facade.app import create_app
from runtime.facade.server import serve
from runtime.facade.settings import FacadeSettings

__all__ = ["FacadeSettings", "create_app", "serve"]

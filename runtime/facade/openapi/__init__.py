"""The OpenAPI document of the facade.

:mod:`.operations` is a table of what each route takes and gives, :mod:`.replies` are the shapes of the replies and
:mod:`.refusals` those of the errors; :mod:`.document` puts them together with what FastAPI knows of the routes, and
:mod:`.serving` is the route that serves the document.
"""

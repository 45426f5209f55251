"""The contract as one HTML file that needs no network: AsyncAPI's own React component and the document inside it."""

import json
from pathlib import Path
from string import Template
from typing import Any

from schemas.errors import SetupError

SCRIPT = Path("browser/standalone/index.js")
STYLE = Path("styles/default.min.css")

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<noscript>This page draws the contract with JavaScript. The same as a file: docs/asyncapi.json.</noscript>
<div id="contract"></div>
<script>$script</script>
<script type="application/json" id="document">$document</script>
<script>
const schema = JSON.parse(document.getElementById("document").textContent);
AsyncApiStandalone.render({schema, config: {show: {sidebar: true}, sidebar: {showOperations: "byDefault"}}},
  document.getElementById("contract"));
</script>
</body>
</html>
""")


def page(document: dict[str, Any], component: Path) -> str:
    """The page's HTML.

    Args:
        document: an AsyncAPI 3.0 document.
        component: folder of npm's ``@asyncapi/react-component``.

    Raises:
        SetupError: the folder does not hold the component.
    """
    try:
        script = (component / SCRIPT).read_text(encoding="utf-8")
        style = (component / STYLE).read_text(encoding="utf-8")
    except OSError as error:
        raise SetupError(
            f"AsyncAPI's component is not at {component}: 'npm install @asyncapi/react-component', and give its folder "
            "with --component.",
            param="component",
        ) from error
    info = document["info"]
    return _PAGE.substitute(
        title=f"{info['title']} {info['version']}",
        style=style.replace("</", "<\\/"),
        script=script.replace("</script", "<\\/script"),
        document=json.dumps(document, ensure_ascii=False).replace("</", "<\\/"),
    )

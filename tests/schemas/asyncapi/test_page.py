"""The contract as a page of its own, by AsyncAPI's component."""

import json
import re
from pathlib import Path

import pytest

from schemas.asyncapi.document import document
from schemas.asyncapi.page import SCRIPT, STYLE, page
from schemas.errors import SetupError

COMPONENT = Path(__file__).parents[2] / "contract" / "node_modules" / "@asyncapi" / "react-component"


def parse_embedded(text: str) -> object:
    match = re.search(r'<script type="application/json" id="document">(.*?)</script>', text, re.DOTALL)
    assert match is not None
    return json.loads(match.group(1))


def test_the_page_holds_the_document_whatever_is_in_it(tmp_path: Path) -> None:
    for path in (SCRIPT, STYLE):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("/* nothing */")
    contract = {"info": {"title": "t", "version": "1", "description": "</script><b>&amp; $x"}}
    text = page(contract, tmp_path)
    assert parse_embedded(text) == contract
    assert text.count("</script>") == 3


@pytest.mark.node
@pytest.mark.skipif(not COMPONENT.exists(), reason="npm's @asyncapi/react-component is not here")
def test_the_kept_component_is_put_in_and_nothing_is_fetched() -> None:
    text = page(document(), COMPONENT)
    assert parse_embedded(text) == json.loads(json.dumps(document()))
    assert "AsyncApiStandalone" in text
    assert not re.search(r"<(script|link)[^>]*\s(src|href)=", text)


def test_a_missing_component_is_refused_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="npm install @asyncapi/react-component") as caught:
        page(document(), tmp_path)
    assert caught.value.param == "component"

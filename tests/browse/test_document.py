import base64
import hashlib
import re

import pytest
import reports

from pixcrawler_worker.browse import document


@pytest.mark.parametrize("served", [False, True])
def test_only_its_own_script_and_style_run_and_nothing_is_loaded_from_elsewhere(served: bool) -> None:  # noqa: FBT001
    html = document.head("Images: <b>", "{}", served=served)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for name, text in (("script-src", script), ("style-src", style)):
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == ("blob: 'self'" if served else "blob: data:")
    assert rules.get("connect-src") == ("'self'" if served else None)
    assert "Images: &lt;b&gt;" in html


def test_there_are_no_handlers_in_the_html_and_each_field_has_a_name() -> None:
    html = document.head("Images", "{}", served=False).removeprefix("<!doctype html>") + document.END.decode()
    found = reports.parse(re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL))
    assert found.handlers == []
    assert found.loaded == []
    assert ("lang", "en") in found.attributes
    assert found.headings == [1, 2]
    fields = re.findall(r"<(?:input|select)[^>]*>", html)
    assert len(fields) > 10
    for field in fields:
        assert "aria-label=" in field or re.search(rf"<label[^>]*>[^<]*{re.escape(field)}", html), field


def test_an_image_is_text_that_nothing_runs() -> None:
    assert document.image("sheet-3", b"\xff\xd8</script>") == (
        b'<script type="text/plain" id="sheet-3">' + base64.b64encode(b"\xff\xd8</script>") + b"</script>\n"
    )

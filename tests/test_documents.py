"""Documents: their links lead somewhere, and their code is code."""

import ast
import json
import re
from pathlib import Path

import documents
import pytest


def anchors(path: Path) -> set[str]:
    """The anchors of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*documents.DOCUMENTS, *documents.DECISIONS], ids=lambda path: path.stem)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match("https?:|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        found = path.parent / name if name else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


# The recipes of CONTRIBUTING.md are parts of files.
@pytest.mark.parametrize(
    "path", [path for path in documents.DOCUMENTS if path.name != "CONTRIBUTING.md"], ids=lambda path: path.stem
)
def test_code_in_documents_is_code(path: Path) -> None:
    for block in documents.blocks(path):
        if block.language == "python":
            ast.parse(block.text)
        elif block.language == "json":
            json.loads(block.text)


def test_the_readme_names_every_document() -> None:
    readme = (documents.ROOT / "README.md").read_text(encoding="utf-8")
    for path in (documents.ROOT / "docs").glob("*.md"):
        assert f"(docs/{path.name}" in readme, path.name

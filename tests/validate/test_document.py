"""docs/validation.md against the code that it describes."""

import json
import re
from pathlib import Path

from pixcrawler_worker.validate.classifiers import CLASSIFIERS
from pixcrawler_worker.validate.rules import MODELS, parse

DOCUMENT = (Path(__file__).parents[2] / "docs" / "validation.md").read_text()


def test_every_check_is_there_with_its_severity_and_its_parameters() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (error|warn|info) \|([^|]*)\|$", DOCUMENT, re.MULTILINE)
    assert {name: severity for name, severity, _ in rows} == {
        name: model().severity.value for name, model in MODELS.items()
    }
    for name, _, parameters in rows:
        for parameter in set(MODELS[name].model_fields) - {"severity"}:
            assert f"`{parameter}`" in parameters
            default = MODELS[name].model_fields[parameter].default
            if isinstance(default, int | float):
                assert re.search(rf"`{parameter}` {default:g}\b|`{parameter}` {default}\b", parameters), parameter


def test_its_examples_are_valid() -> None:
    examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)]
    assert len(examples) == 3
    assert all(parse(example) for example in examples)
    assert f'"{CLASSIFIERS.group}"' in DOCUMENT

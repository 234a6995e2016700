import json
import re
from typing import Any

import pytest

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export import options
from pixcrawler_worker.export.options import ExportOptions
from pixcrawler_worker.exporters.protocol import ExportFormat


def test_the_defaults_export_every_valid_image_as_it_is_stored() -> None:
    parsed = options.parse({})
    assert parsed.select.only_valid
    assert parsed.select.exclude_flags == ("exact_duplicate",)
    assert parsed.image.format == "keep"
    assert parsed.layout_for(ExportFormat.ZIP).__name__ == "ImageFolder"
    assert parsed.layout_for(ExportFormat.TAR).__name__ == "WebDataset"
    assert parsed.layout_for(ExportFormat.CSV).__name__ == "TableOnly"
    assert parsed.ratios(parsed.layout_for(ExportFormat.ZIP)) == {}


def test_the_result_of_an_export_is_ignored() -> None:
    assert options.parse({"result": {"anything": 1}}) == ExportOptions()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "export_options: expected an object, got an array"),
        ({"layut": "flat"}, "export_options.layut: unknown option, did you mean 'layout'?"),
        (
            {"select": {"only_vaild": True}},
            "export_options.select.only_vaild: unknown option, did you mean 'only_valid'?",
        ),
        ({"image": {"resize": {"sise": 3}}}, "export_options.image.resize.sise: unknown option, did you mean 'size'?"),
        (
            {"image": {"resize": {"mode": "crop", "size": 64}}},
            'export_options.image.resize.mode: expected "fit", "cover", "pad" or "shortest", got "crop"',
        ),
        (
            {"layout": "imagefoldr"},
            "export_options.layout: there is no layout 'imagefoldr'; did you mean 'imagefolder'?",
        ),
        (
            {"select": {"licenses": ["cc-bi"]}},
            "export_options.select.licenses[0]: there is no license 'cc-bi'; did you mean 'cc-by'?",
        ),
        ({"splits": {"ratios": {"train": 0}}}, "export_options.splits.ratios.train: expected a number above 0, got 0"),
        (
            {"splits": {"ratios": {"../train": 1}}},
            "export_options.splits.ratios: expected a name of at most 20 lower-case letters",
        ),
        (
            {"archive": {"part_max_images": 0}},
            "export_options.archive.part_max_images: expected an integer from 1 to 50000, got ",
        ),
        (
            {"archive": {"part_max_images": 70_000}},
            "export_options.archive.part_max_images: expected an integer from 1 to 50000, got ",
        ),
        (
            {"archive": {"part_max_bytes": 2**32}},
            "export_options.archive.part_max_bytes: expected an integer from 1000000 to 4000000000",
        ),
        (
            {"image": {"background": "white"}},
            'export_options.image.background: expected a color such as #ffffff, got "white"',
        ),
        (
            {"select": {"exclude_images": ["ab"]}},
            'export_options.select.exclude_images[0]: expected a SHA-256 of 64 hexadecimal digits, got "ab"',
        ),
        ({"select": {"limit": "10"}}, 'export_options.select.limit: expected an integer of at least 1, got "10"'),
        ({"url_ttl_s": 0}, "export_options.url_ttl_s: expected an integer from 60 to 31622400, got 0"),
        ({"version": 2}, "export_options.version: expected 1, got 2"),
    ],
)
def test_an_invalid_key_or_value_is_named(raw: Any, message: str) -> None:
    with pytest.raises(PermanentError, match=re.escape(message)):
        options.parse(raw)


@pytest.mark.parametrize(
    ("layout", "format_", "message"),
    [
        ("webdataset", ExportFormat.ZIP, "export_options.layout: webdataset is delivered as tar, not as zip"),
        ("imagefolder", ExportFormat.CSV, "export_options.layout: imagefolder is delivered as tar, zip, not as csv"),
    ],
)
def test_an_unsupported_format_of_a_layout_is_an_error(layout: str, format_: ExportFormat, message: str) -> None:
    with pytest.raises(PermanentError, match=re.escape(message)):
        options.parse({"layout": layout}).layout_for(format_)


def test_a_csv_export_has_its_table() -> None:
    with pytest.raises(PermanentError, match=r"export_options\.extras\.images_csv: expected true, .*, got false"):
        options.parse({"extras": {"images_csv": False}}).layout_for(ExportFormat.CSV)


@pytest.mark.parametrize("layout", ["WebDataset", "WEBDATASET", "webdataset"])
def test_a_layout_is_parsed_in_any_case(layout: str) -> None:
    assert options.parse({"layout": layout}).layout == "webdataset"


@pytest.mark.parametrize("format_", ["JPG", "Jpeg", ".JPG", "image/JPEG"])
def test_an_image_format_is_parsed_in_any_case(format_: str) -> None:
    assert options.parse({"image": {"format": format_}}).image.format == "jpg"
    assert options.parse({"image": {"format": "KEEP"}}).image.format == "keep"


@pytest.mark.parametrize(
    ("name", "expected"), [("zip", ExportFormat.ZIP), ("TAR", ExportFormat.TAR), ("csv", ExportFormat.CSV)]
)
def test_a_format_is_parsed_in_any_case(name: str, expected: ExportFormat) -> None:
    assert options.format_of(name) is expected


def test_an_unknown_format_is_rejected_with_the_nearest_name() -> None:
    with pytest.raises(PermanentError, match=r"there is no 'zpi'; did you mean 'zip'\? Known are zip, tar, csv$"):
        options.format_of("zpi")


def test_the_schema_is_json_and_names_every_key() -> None:
    schema = json.loads(json.dumps(ExportOptions.model_json_schema()))
    assert set(schema["properties"]) == set(ExportOptions.model_fields)
    assert schema["additionalProperties"] is False

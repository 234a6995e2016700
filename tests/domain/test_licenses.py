import pytest

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.errors import PermanentError


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("CC BY-SA 4.0", "cc-by-sa-4.0"),
        ("cc-by-sa-4.0", "cc-by-sa-4.0"),
        ("by-sa 4.0", "cc-by-sa-4.0"),
        ("by", "cc-by"),
        ("CC BY-NC-ND 2.0", "cc-by-nc-nd-2.0"),
        ("CC BY-SA 3.0 de", "cc-by-sa-3.0-de"),
        ("CC0", "cc0"),
        ("cc0 1.0", "cc0-1.0"),
        ("cc-zero", "cc0"),
        ("pdm 1.0", "cc-pdm-1.0"),
        ("pd", "public-domain"),
        ("Public domain", "public-domain"),
        ("https://creativecommons.org/licenses/by-sa/3.0/de/deed.en", "cc-by-sa-3.0-de"),
        ("http://creativecommons.org/licenses/by/4.0", "cc-by-4.0"),
        ("https://creativecommons.org/licenses/by/2.5/scotland/", "cc-by-2.5-scotland"),
        ("https://creativecommons.org/licenses/by/4.0/legalcode", "cc-by-4.0"),
        ("//creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/deed", "cc-pdm-1.0"),
        ("LicenseRef-Unsplash", "licenseref-unsplash"),
        ("CC0 1.0 Universal", "cc0-1.0"),
        ("CC BY 4.0 International", "cc-by-4.0"),
        ("CC BY-SA 3.0 Unported", "cc-by-sa-3.0"),
        ("CC BY 2.0 Generic", "cc-by-2.0"),
        ("by-nd-nc 2.0", "cc-by-nc-nd-2.0"),
        ("https://creativecommons.org/licenses/by-nd-nc/1.0/", "cc-by-nc-nd-1.0"),
        ("CC BY\u2011SA 4.0", "cc-by-sa-4.0"),
        ("Creative Commons Attribution 4.0 International", "cc-by-4.0"),
        ("Creative Commons Attribution 4.0 International License", "cc-by-4.0"),
        ("Creative Commons Attribution-NonCommercial-ShareAlike 3.0 Unported", "cc-by-nc-sa-3.0"),
        ("creative commons attribution non-commercial no derivatives 2.0", "cc-by-nc-nd-2.0"),
        ("Creative Commons Attribution-NoDerivs 2.5 Generic", "cc-by-nd-2.5"),
        ("Creative Commons Attribution Share Alike", "cc-by-sa"),
        ("Creative Commons Attribution-ShareAlike 3.0 Germany", None),
        ("Creative Commons Zero", "cc0"),
        ("CC0 1.0 Universal (CC0 1.0) Public Domain Dedication", "cc0-1.0"),
        ("Creative Commons CC0 1.0 Universal Public Domain Dedication", "cc0-1.0"),
        ("Public Domain Mark 1.0", "cc-pdm-1.0"),
        ("CC_BY_NC_4_0", "cc-by-nc-4.0"),
        ("CC0_1_0", "cc0-1.0"),
        ("creativecommons.org/licenses/by/4.0/", "cc-by-4.0"),
        ("Attribution", None),
        ("Attribution-NonCommercial 4.0", None),
        ("Creative Commons", None),
        ("Creative Commons Attribution 4.0 and GFDL", None),
        ("not creativecommons.org/licenses/by/4.0/", None),
        ("GFDL", None),
        ("nc-sampling+", None),
        ("https://example.org/licenses/by/4.0", None),
        ("", None),
        ("  ", None),
        ("cc-by-0.0", None),
    ],
)
def test_a_license_has_one_identifier_in_every_notation(written: str, known: str | None) -> None:
    assert licenses.normalized(written) == known
    if known:
        assert licenses.normalized(known) == known


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("CC0", "cc0-1.0"),
        ("pdm", "cc-pdm-1.0"),
        ("CC BY 2.0", "cc-by-2.0"),
        ("GFDL 1.2+", "licenseref-gfdl-1.2"),
        ("nc-sampling+ 1.0", "licenseref-nc-sampling-1.0"),
        ("x" * 500, "licenseref-" + "x" * 60),
        ("", None),
        ("\u732b", None),
    ],
)
def test_the_license_of_a_provider_is_stored_under_one_identifier(written: str, expected: str | None) -> None:
    assert licenses.identifier(written) == expected
    if expected:
        assert licenses.identifier(expected) == expected


@pytest.mark.parametrize(
    ("license_id", "allowed", "expected"),
    [
        ("cc-by-4.0", ("cc-by",), True),
        ("cc-by-4.0", ("cc-by-4.0",), True),
        ("cc-by-2.0", ("cc-by-4.0",), False),
        ("cc-by-sa-4.0", ("cc-by",), False),
        ("cc-by-sa-3.0-de", ("cc-by-sa",), True),
        ("cc0-1.0", ("cc-by", "cc0"), True),
        ("licenseref-unsplash", ("licenseref-unsplash",), True),
        ("licenseref-unsplash", ("cc-by",), False),
        (None, ("cc-by",), False),
        (None, None, True),
        ("all rights reserved", None, True),
        ("cc0-1.0", (), False),
    ],
)
def test_a_family_includes_all_its_versions(
    license_id: str | None, allowed: tuple[str, ...] | None, *, expected: bool
) -> None:
    assert licenses.is_allowed(license_id, allowed) is expected


def test_an_unknown_license_is_rejected_with_the_nearest_one() -> None:
    with pytest.raises(PermanentError, match=r"there is no license 'cc-by-sad'; did you mean 'cc-by-sa'\?"):
        licenses.parse("cc-by-sad")
    with pytest.raises(PermanentError, match="known are cc0, cc-pdm, public-domain, cc-by"):
        licenses.parse("all rights reserved")


@pytest.mark.parametrize(
    ("license_id", "url"),
    [
        ("cc-by-4.0", "https://creativecommons.org/licenses/by/4.0/"),
        ("cc-by-nc-nd-2.0-de", "https://creativecommons.org/licenses/by-nc-nd/2.0/de/"),
        ("cc0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
        ("cc-pdm-1.0", "https://creativecommons.org/publicdomain/mark/1.0/"),
        ("cc-by", None),
        ("public-domain", None),
        ("licenseref-unsplash", None),
        ("", None),
    ],
)
def test_a_license_of_creative_commons_has_a_deed(license_id: str, url: str | None) -> None:
    assert licenses.deed_url(license_id) == url
    if url:
        assert licenses.normalized(url) == license_id

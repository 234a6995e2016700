"""The page in Chromium: filters, order, marks, groups and the large view, by mouse and keyboard, at two widths."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import ledger
import pytest
from browse.browsing import HOSTILE, job_of, written
from browser import requires_chromium
from chromium import Chromium
from doubles import query
from export import exporting
from export.exporting import StoredImage, add, crawl_of, image_bytes
from PIL import Image
from validate import validation_jobs

from pixcrawler_worker.browse import content, document
from pixcrawler_worker.domain import exclusions
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.runtime import Runtime

pytestmark = [requires_chromium, pytest.mark.timeout(300)]

IMAGES = 90
#: Positions in the order of the page of the tiles that are drawn.
POSITIONS = "[...document.querySelectorAll('.tile')].map((one) => Number(one.getAttribute('aria-posinset')))"
IDS = "[...document.querySelectorAll('.tile')].map((one) => Number(one.dataset.id))"
STATUS = "document.querySelector('#status').textContent"
PAINTED = "[...document.querySelectorAll('.thumb')].filter((one) => one.style.backgroundImage).length"


@pytest.fixture(scope="module")
def job(runtime: Runtime) -> int:
    """A job with images of four labels: one is small and so invalid, three look alike, one file is missing."""
    stored = [
        StoredImage(
            image_bytes(number, size=(140 + number % 30, 100)),
            label=("ant", "bee", "cat", "dog")[number % 4],
            credit=Credit(title=f"photo {number}", license=("cc0-1.0", "cc-by-4.0")[number % 2],
                          license_url="https://example.org/license", page_url=f"https://example.org/{number}"),
        )
        for number in range(IMAGES - 4)
    ]  # fmt: skip
    job = crawl_of(runtime, stored, name="a job")
    alike = [StoredImage(image_bytes(5000, size=(side, side)), label="eel") for side in (90, 180, 270)]
    add(
        runtime,
        job,
        [*alike, StoredImage(image_bytes(6000, size=(30, 30)), label=HOSTILE, credit=Credit(title=HOSTILE))],
    )
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET valid_images = :n WHERE id = :id", n=IMAGES, id=job)
    validation_jobs.validate(runtime, job, {"level": "strict", "mode": "lenient"})
    ((url,),) = query(runtime, "SELECT storage_url FROM images WHERE crawl_job_id = :id ORDER BY id LIMIT 1", id=job)
    runtime.run(runtime.storage.delete([runtime.storage.key(url)]))
    return job


@pytest.fixture(scope="module")
def page(runtime: Runtime, job: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(runtime, job, tmp_path_factory.mktemp("pages") / "page.html").path


@pytest.fixture(
    scope="module",
    params=[pytest.param((1400, 900), id="1400"), pytest.param((400, 800), id="400", marks=pytest.mark.chromium)],
)
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A browser for all tests, with one width: starting one takes longer than a test."""
    width, height = request.param
    with Chromium(tmp_path_factory.mktemp("chromium"), width=width, height=height) as opened:
        yield opened


@pytest.fixture
def shown(browser: Chromium, page: Path) -> Iterator[Chromium]:
    """The page, without marks of another test."""
    browser.renew()
    show(browser, page)
    yield browser
    assert browser.problems() == []
    assert set(browser.requested()) == {page.as_uri()}, "nothing is loaded"


def show(browser: Chromium, page: Path) -> None:
    browser.open(page.as_uri())
    browser.wait("document.documentElement.dataset.shown && document.readyState === 'complete'")
    browser.run("document.querySelector('#filters').open = true")


def choose(browser: Chromium, **values: object) -> str:
    """Set fields of the form; return the status line."""
    for name, value in values.items():
        field = f"document.querySelector('#{name}')"
        if isinstance(value, bool):
            browser.run(f"{field}.checked = {json.dumps(value)}")
        else:
            browser.run(f"{field}.value = {json.dumps(str(value))}")
    browser.run("document.querySelector('#form').dispatchEvent(new Event('input'))")
    browser.run("new Promise((done) => setTimeout(done, 100))")  # later than the page's own
    return str(browser.run(STATUS))


def option(browser: Chromium, field: str, text: str) -> str:
    """Return the value of the option whose text begins so."""
    found = browser.run(
        f"[...document.querySelector('#{field}').options].find((one) => one.text.startsWith({json.dumps(text)}))?.value"
    )
    assert found is not None, text
    return str(found)


def test_all_images_are_there_and_fit_the_width(shown: Chromium) -> None:
    assert shown.run(STATUS) == f"{IMAGES} images, 0 marked"
    assert shown.run("document.documentElement.scrollWidth <= innerWidth")
    assert shown.run("document.title") == "Images: a job - PixCrawler"
    positions = shown.run(POSITIONS)
    assert positions == list(range(1, len(positions) + 1)), "in the order of the page"
    shown.wait(f"{PAINTED} > 5")
    shown.screenshot(f"browse-{shown.run('innerWidth')}")
    shown.run("scrollTo(0, document.documentElement.scrollHeight)")
    shown.wait(f"{POSITIONS}.includes({IMAGES})")
    assert shown.run(POSITIONS) == sorted(shown.run(POSITIONS))


def test_of_many_labels_the_most_frequent_ones_are_listed(browser: Chromium, runtime: Runtime, tmp_path: Path) -> None:
    job = crawl_of(runtime, [])
    ledger.execute(
        runtime.sessions,
        "WITH made AS (INSERT INTO images (crawl_job_id, original_url, filename, width, height)"
        " SELECT :job, 'https://example.org/' || n, n || '.jpg', 9, 9 FROM generate_series(1, 1103) AS n"
        " RETURNING id, original_url) INSERT INTO pixcrawler.image_facts"
        " (image_id, crawl_job_id, sha256, url_hash, phash, dhash, hash_version, mode, frames, label, query, source)"
        " SELECT id, :job, sha256(original_url::bytea), sha256(original_url::bytea), id, id, 2, 'RGB', 1,"
        " CASE WHEN original_url LIKE '%/1' OR original_url LIKE '%/2' THEN 'zebra' ELSE original_url END, 'q', 'urls'"
        " FROM made",
        job=job,
    )
    page = tmp_path / "page.html"
    head = document.head("Images", content.to_json(content.read(runtime, job), None), served=True)
    page.write_bytes(head.encode() + document.END)
    browser.renew()
    show(browser, page)
    texts = browser.run("[...document.querySelector('#label').options].map((one) => one.text)")
    assert texts[:2] == ["all labels", "zebra (2)"]
    assert (len(texts), texts[-1]) == (1002, "102 more: search for them")
    assert choose(browser, text="example.org/7").startswith("111 of 1,103 images")


def test_thumbnails_are_those_of_their_images(shown: Chromium, runtime: Runtime) -> None:
    """Compare the middle of tiles on the screen with that of the stored images."""
    shown.wait(f"{PAINTED} > 8")
    shown.run("document.querySelector('#filters').open = false")
    shown.run("new Promise((done) => setTimeout(done, 300))")
    screen = Image.open(shown.screenshot("browse-tiles")).convert("RGB")
    boxes = shown.run(
        "[...document.querySelectorAll('.tile')].filter((one) => one.querySelector('.thumb')).map((one) => {"
        " const box = one.querySelector('.thumb').getBoundingClientRect();"
        " return [Number(one.dataset.id), box.x + box.width / 2, box.y + box.height / 2]; })"
    )
    titles = query(runtime, "SELECT id, title, width FROM images JOIN pixcrawler.image_facts ON id = image_id")
    stored = {image_id: (title, width) for image_id, title, width in titles if str(title).startswith("photo ")}
    on_screen = [one for one in boxes if 80 < one[2] < screen.height - 80 and one[0] in stored]
    assert len(on_screen) > 5
    for image_id, x, y in on_screen:
        title, width = stored[image_id]
        body = image_bytes(int(title.split()[1]), size=(width, 100))
        expected = middle(body)
        assert screen.getpixel((int(x), int(y))) == pytest.approx(expected, abs=45), title


def middle(body: bytes) -> tuple[int, ...]:
    image = Image.open(BytesIO(body)).convert("RGB")
    pixel = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(pixel, tuple)
    return tuple(int(one) for one in pixel)


def test_filters_leave_what_fits_and_are_reset(shown: Chromium) -> None:
    everything = f"of {IMAGES} images, 0 marked"
    assert choose(shown, label=option(shown, "label", "cat")) == f"21 {everything}"
    assert choose(shown, license=option(shown, "license", "cc-by-4.0")) == f"0 {everything}"
    assert not shown.run("document.querySelector('#empty').hidden")
    assert shown.run("document.querySelector('#active').textContent") == "(2 active)"
    assert choose(shown, license="") == f"21 {everything}"
    shown.click("#clear")
    assert choose(shown) == f"{IMAGES} images, 0 marked"
    assert choose(shown, text="PHOTO ant") == f"22 {everything}", "both words, wherever they are"
    assert choose(shown, text="onerror") == f"1 {everything}"
    assert shown.run("document.title").startswith("Images: a job"), "nothing has run"
    assert choose(shown, text="", check=option(shown, "check", "dimensions")) == f"1 {everything}"
    assert choose(shown, check="", view="invalid") == f"1 {everything}"
    assert choose(shown, view="missing") == f"1 {everything}"
    assert shown.run("document.querySelector('.reason').textContent") == "file missing in the storage"
    assert choose(shown, view="", number="width", min=165, max=169) == f"11 {everything}"
    assert choose(shown, number="width", min=165, max="", sort="width", descending=True) == f"13 {everything}"
    assert shown.run("document.querySelector('.tile .caption').textContent").startswith("eel")


def test_scores_sort_the_images(shown: Chromium) -> None:
    choose(shown, sort="width")
    ascending = shown.run(IDS)
    assert "onerror" in shown.run("document.querySelector('.tile .show').getAttribute('aria-label')"), (
        "the smallest one"
    )
    choose(shown, sort="width", descending=True)
    assert shown.run(IDS)[:3] != ascending[:3]
    assert shown.run("document.querySelector('.tile .caption b').textContent") == "eel", "the widest one"


def test_marks_by_mouse_and_keyboard_survive_a_reload_and_are_saved(
    shown: Chromium, runtime: Runtime, job: int
) -> None:
    ids = shown.run(IDS)
    shown.click(f".tile[data-id='{ids[2]}'] .mark")
    assert shown.run(STATUS) == f"{IMAGES} images, 1 marked"
    shown.press("ArrowRight")
    shown.press("x")
    shown.press("End")
    shown.press("Delete")
    assert shown.run(STATUS) == f"{IMAGES} images, 3 marked"
    shown.press("x")
    shown.press("Home")
    shown.click(f".tile[data-id='{ids[0]}'] .show", control=True)
    assert shown.run(STATUS) == f"{IMAGES} images, 3 marked"
    shown.click(f".tile[data-id='{ids[1]}'] .mark")
    shown.click(f".tile[data-id='{ids[5]}'] .mark", shift=True)
    assert shown.run(STATUS) == f"{IMAGES} images, 6 marked", "all of them between the two"
    shown.call("Page.reload")
    shown.wait(f"performance.getEntriesByType('navigation')[0].type === 'reload' && {STATUS}")
    assert shown.wait(STATUS) == f"{IMAGES} images, 6 marked"
    assert choose(shown, view="marked") == f"6 of {IMAGES} images, 6 marked"
    assert choose(shown, view="unmarked") == f"{IMAGES - 6} of {IMAGES} images, 6 marked"
    shown.click("#save")
    saved = shown.download()
    assert saved.name == f"exclusions-job-{job}.json"
    content = json.loads(saved.read_text())
    assert (content["version"], content["job"]) == (1, job)
    assert sorted(one["id"] for one in content["exclude_images"]) == sorted(ids[:6])
    digests = exclusions.digests(content)
    ref = exporting.export(runtime, job, {"select": {"exclude_images": digests, "only_valid": False}}, format_="csv")
    assert exporting.row(runtime, ref).total_images == IMAGES - 6


def test_an_earlier_list_is_loaded_and_kept_with_what_other_jobs_have(shown: Chromium, tmp_path: Path) -> None:
    digest = "0c" * 32
    shown.press("x")
    shown.click("#save")
    mine = json.loads(shown.download().read_text())["exclude_images"][0]["sha256"]
    shown.press("x")
    listed = tmp_path / "earlier.json"
    listed.write_text(json.dumps({"version": 1, "job": 1, "exclude_images": [{"sha256": digest}, mine.upper(), mine]}))
    shown.choose("#file", listed)
    assert shown.wait("document.querySelector('#notice').textContent") == (
        "2 marks loaded from earlier.json, 1 of images that are not in this job."
    )
    assert shown.run(STATUS) == f"{IMAGES} images, 1 marked"
    shown.forget_downloads()
    shown.click("#save")
    saved = json.loads(shown.download().read_text())["exclude_images"]
    assert [one["sha256"] for one in saved] == [mine, digest]
    for text, reason in (
        ("{", "earlier.json is no list of exclusions: "),
        ('{"version": 2, "exclude_images": []}', "its version is 2, and this page reads version 1"),
        ('{"images": []}', "expected an array, or an object with one as exclude_images"),
        ('["ab"]', "entry 1 has no SHA-256 of 64 hexadecimal digits"),
        ("null", "expected an array"),
    ):
        listed.write_text(text)
        shown.choose("#file", listed)
        shown.wait(f"document.querySelector('#notice').textContent.includes({json.dumps(reason)})")
    assert shown.run(STATUS) == f"{IMAGES} images, 1 marked"


def test_near_duplicates_are_side_by_side_and_all_but_the_best_are_marked(shown: Chromium) -> None:
    assert choose(shown, view="groups") == f"3 of {IMAGES} images, 0 marked"
    assert shown.run("document.querySelector('.group span').textContent") == "Group 1: 3 images"
    places = shown.run("[...document.querySelectorAll('.tile')].map((one) => one.getBoundingClientRect().y)")
    assert len(set(places)) == 1 or shown.run("innerWidth") == 400
    shown.click(".group button")
    assert shown.run(STATUS) == f"3 of {IMAGES} images, 2 marked"
    marked = shown.run("[...document.querySelectorAll('.tile')].map((one) => one.classList.contains('marked'))")
    assert marked == [False, True, True]
    assert shown.run("document.querySelector('.tile .show').getAttribute('aria-label')") == "eel"


def test_an_image_is_shown_large_with_its_facts_and_links(shown: Chromium) -> None:
    choose(shown, text="photo", view="valid")
    shown.click(".tile:nth-child(2) .show")
    shown.wait("document.querySelector('dialog').open && document.querySelector('#large-image img')?.complete")
    assert shown.run("document.querySelector('#large-image img').naturalWidth") >= 140
    assert shown.run("document.querySelector('#large-image img').alt").startswith("photo")
    facts = shown.run(
        "Object.fromEntries([...document.querySelectorAll('dt')].map((one) => [one.textContent,"
        " one.nextElementSibling.textContent]))"
    )
    assert {"Title", "License", "Size", "Validation", "SHA-256", "Sharpness", "Source page"} <= set(facts)
    links = shown.run("[...document.querySelectorAll('#links a')].map((one) => [one.textContent, one.href, one.rel])")
    assert [text for text, _, _ in links] == ["source page", "original image", "license"]
    assert {rel for _, _, rel in links} == {"noopener noreferrer"}
    assert shown.run("[document.querySelector('dialog').scrollWidth <= innerWidth]") == [True]
    title = shown.run("document.querySelector('#large-title').textContent")
    shown.press("ArrowRight")
    assert shown.run("document.querySelector('#large-title').textContent") != title
    shown.press("x")
    assert shown.run("document.querySelector('#large-mark').textContent") == "Marked"
    shown.press("Escape")
    shown.wait("!document.querySelector('dialog').open")
    assert "1 marked" in shown.run(STATUS)
    # The focus is where the view was.
    shown.wait("document.activeElement.closest('.tile')?.getAttribute('aria-posinset') === '3'")
    shown.press("Enter")
    shown.wait("document.querySelector('dialog').open")
    shown.click("#close")
    shown.wait("!document.querySelector('dialog').open")


def test_a_text_from_outside_is_text(shown: Chromium) -> None:
    choose(shown, text="onerror")
    shown.press("Home")
    shown.press("Enter")
    shown.wait("document.querySelector('dialog').open")
    assert "onerror=" in shown.run("document.querySelector('#large-title').textContent")
    assert shown.run("document.querySelectorAll('dialog script, .tile script, option script, [onerror]').length") == 0
    assert shown.run("document.title").startswith("Images: a job")
    shown.press("Escape")


def test_every_control_has_a_name_and_text_is_readable(shown: Chromium) -> None:
    nameless = shown.run(
        "[...document.querySelectorAll('button, input, select')].filter((one) => !(one.textContent.trim()"
        " || one.getAttribute('aria-label') || one.labels?.length)).map((one) => one.outerHTML)"
    )
    assert nameless == []
    small = shown.run(
        "[...document.querySelectorAll('.tile .mark, header button')].filter((one) => one.offsetWidth < 24"
        " || one.offsetHeight < 24).length"
    )
    assert small == 0, "targets have at least 24 pixels (WCAG 2.5.8)"
    for name in ("--soft", "--ink", "--link", "--bad"):
        assert contrast(shown, name, "--page") >= 4.5, name
        assert contrast(shown, name, "--card") >= 4.5, name
    assert contrast(shown, "--edge", "--page") >= 3


def contrast(browser: Chromium, one: str, other: str) -> float:
    """Return the contrast of two colors of the page (WCAG 2.2, "contrast ratio")."""

    def luminance(name: str) -> float:
        found = browser.run(
            f"(() => {{ const probe = document.body.appendChild(document.createElement('i'));"
            f" probe.style.color = 'var({name})'; const color = getComputedStyle(probe).color; probe.remove();"
            " return color.match(/[0-9]+/g).map(Number); })()"
        )
        linear = [c / 12.92 if (c := value / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for value in found]
        return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_in_dark_colors_text_is_readable_too(browser: Chromium, page: Path) -> None:
    browser.renew()
    browser.prefer(dark=True)
    try:
        show(browser, page)
        for name in ("--soft", "--ink", "--link", "--bad"):
            assert contrast(browser, name, "--page") >= 4.5, name
            assert contrast(browser, name, "--card") >= 4.5, name
        assert contrast(browser, "--edge", "--page") >= 3
    finally:
        browser.prefer(dark=False)


def test_only_tiles_near_the_screen_exist(runtime: Runtime, browser: Chromium, tmp_path: Path) -> None:
    job = job_of(runtime, 400, first=20_000)
    browser.renew()
    show(browser, written(runtime, job, tmp_path / "many.html").path)
    assert browser.run(STATUS) == "400 images, 0 marked"
    for place in (0, 0.5, 1):
        browser.run(f"scrollTo(0, document.documentElement.scrollHeight * {place})")
        browser.run("new Promise((done) => setTimeout(done, 200))")
        assert 5 < browser.run("document.querySelectorAll('.tile').length") < 200
    assert 400 in browser.run(POSITIONS)
    assert browser.problems() == []

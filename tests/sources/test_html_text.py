import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.sources.html_text import visible_text

LENGTH = 1_000_000


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("", ""),
        ("Ada", "Ada"),
        ("a < b && c > d", "a < b && c > d"),
        ("<a href='x>y' title=\"<b>\">Ada</a>", "Ada"),
        ("<b>a</b>b<BR/>c<p>d", "ab c d"),
        ("&lt;b&gt; &#65;&#x42; &eacute; &#0; &#99999999999999999999;", "<b> AB é \ufffd \ufffd"),
        ("a<!-- <b> -->b<!-->c<!doctype x>d<?php x ?>e</ f>g", "abcdeg"),
        ("a<!-- never closed", "a"),
        ("a<b title='never closed", "a"),
        ("a<b title='x' never closed", "a"),
        ("<script>if (a < b) { '</b>' }</script>c<style>d</STYLE >e", "ce"),
        ("<script>never closed", ""),
        ("<div hidden><div>a</div>b</div>c", "c"),
        ('<div style="color:red;DISPLAY : &#110;one">a</div>c', "c"),
        ("<div style=display:none>a<br>b</div>c", "c"),
        ("<div hidden><i><b>a</div>c</i>d", "cd"),
        ("<div data-hidden=1 title='hidden'>a</div>", "a"),
        ("</div>a</p>b", "a b"),
        ("<title>x</title>y<template><p>z</template>w", "yw"),
        ("<\x00b>a<1>", "<\x00b>a<1>"),
    ],
)
def test_the_text_is_what_a_browser_shows(source: str, text: str) -> None:
    assert visible_text(source, max_length=1000) == text


HOSTILE = [
    *(
        "<",
        "<a",
        "</",
        "<!",
        "<!--",
        "<!-",
        "<?",
        "<![CDATA[",
        "<!DOCTYPE",
        "&",
        "&#",
        "&#x",
        "&#9",
        "&amp",
        "-->",
        "a",
    ),
    *("<a ", "<a b", "<a =", "<a b=", "<a b='", '<a b="', "<a b=\"'", "<a b='c' ", "<a\n", "<a/", "=' ", '="', "='\">"),
    *(
        "<div hidden>",
        "<div hidden></x>",
        "<b>",
        "</b>",
        "<i></b>",
        "<script>",
        "</script",
        "<style><",
        "<title>",
        " ",
        "\n",
    ),
    *("<a style=' ", "<a style='x:y'>", "<a hidden", "a='b' hidden ", "<p/><", "<a><!--"),
]


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("start", ["", "<a ", "<script>", "<div hidden>", "<!--", "<a b='", "&#"])
def test_a_megabyte_of_hostile_html_takes_no_time(start: str, piece: str) -> None:
    source = (start + piece * (LENGTH // len(piece)))[:LENGTH]
    began = time.process_time()
    visible_text(source, max_length=20_000)
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize("piece", HOSTILE)
def test_the_time_grows_with_the_length_alone(piece: str) -> None:
    source = piece * (100_000 // len(piece))
    began = time.process_time()
    visible_text(source, max_length=len(source))
    assert time.process_time() - began < 0.5


@given(st.lists(st.sampled_from([*HOSTILE, ">", "'", '"', "</div>", "\ud800", "\0"]), max_size=30).map("".join))
def test_any_html_has_a_text(source: str) -> None:
    text = visible_text(source, max_length=1000)
    assert text == " ".join(text.split())

"""Foreign text in every place that it is shown in, over all of Unicode."""

import json
import os
import re
import unicodedata
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from compression_gates.evals.foreign_text import (
    fenced,
    in_markdown,
    on_one_line,
    on_terminal,
    snippet,
    valid_unicode,
)

FRAGMENTS = (
    "::error::", "::error file=a.py,line=1::no", " ::set-output name=x::y", "##[group]", "##vso[x]",
    "##teamcity[x]", "\x1b[31m", "\x1b]8;;http://x\x07", "\u202e", "\u2066", "\ufeff", "\u200b",
    "\r", "\n", "\r\n", "\t", "\x00", "\x7f", "\x85", "\u2028", "\ud800", "\udfff", "\udcff",
    "|", "\\|", "`", "```", "[a](http://x)", "![a](x)", "<img src=x>", "</details>", "<!--",
    "-->", "&lt;", "&#x41;", "http://x.org", "https://x", "www.x.org", "a@b.org", "@octocat", "#12",
    "~~x~~",
    "*x*", "_x_", "__x__", "a_b_c", "$x$", "# ", "- ", "+ ", "> ", "1. ", "1) ", "---", "===",
    "    ", "[^1]", "\\", "]]>", "\ufffe", "\ufdd0", "e\u0301", "שלום", "日本", "🙂",
)  # fmt: skip
TEXTS = st.lists(
    st.one_of(st.sampled_from(FRAGMENTS), st.integers(0, 0x10FFFF).map(chr)), max_size=12
).map("".join)
COMMAND = re.compile(r"^\s*::|##(vso|teamcity)?\[", re.MULTILINE)
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def hidden(text: str, but: str = "") -> list[str]:
    return [c for c in text if c not in but and unicodedata.category(c) in HIDDEN]


@given(TEXTS)
@example("\n::error::x")
@example("###[x]")
@example(" \t::::")
def test_a_terminal_gets_visible_characters_and_no_commands(text):
    shown = on_terminal(text)
    assert not hidden(shown, "\n\t")
    assert not COMMAND.search(shown)
    assert shown.encode().decode() == shown
    assert on_terminal(shown) == shown
    assert shown.count("\n") == text.count("\n")


@given(TEXTS)
def test_a_name_is_one_line(text):
    shown = on_one_line(text)
    assert not hidden(shown)
    assert len(shown.splitlines()) <= 1
    assert not COMMAND.search(shown)
    assert on_one_line(shown) == shown
    assert len(snippet(text, 40)) <= 40
    assert not hidden(snippet(text, 40))
    assert not COMMAND.search(snippet(text, 40))


@given(st.text(st.sampled_from("abc äßд日 -_.,;/()'\"!?%")))
def test_plain_text_stays_as_it_is(text):
    assert on_terminal(text) == on_one_line(text) == valid_unicode(text) == text


@given(TEXTS)
def test_xml_holds_what_a_terminal_is_shown(text):
    element = ElementTree.Element("property", value=on_terminal(text))
    element.text = on_terminal(text)
    again = ElementTree.fromstring(ElementTree.tostring(element, encoding="utf-8"))
    assert (again.text or "") == on_terminal(text)


@given(TEXTS)
def test_json_survives_a_strict_reader(text):
    again = json.loads(json.dumps(valid_unicode(text)))
    assert again.encode("utf-8", "strict").decode() == valid_unicode(text)


def rendered(source: str) -> list:
    """The tokens inside the only paragraph of the only item that ``source`` renders to."""
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(f"- {source}")
    kinds = [token.type for token in tokens]
    assert kinds[:2] == ["bullet_list_open", "list_item_open"]
    if not source:
        return []
    assert kinds[2:] == [
        "paragraph_open", "inline", "paragraph_close", "list_item_close", "bullet_list_close",
    ]  # fmt: skip
    return tokens[3].children


@given(TEXTS)
@example("1234567890. x")
@example("a\n# b")
@example("*")
@example("http://x www.x @x #1 a@b.c")
def test_markdown_shows_it_as_it_is(text):
    parts = rendered(in_markdown(text))
    assert {part.type for part in parts} <= {"text", "text_special", "html_inline"}
    assert {part.content for part in parts if part.type == "html_inline"} <= {"<!-- -->"}
    shown = "".join(part.content for part in parts if part.type != "html_inline")
    assert shown == on_one_line(text.replace("\n", " ")).strip()


@given(TEXTS, TEXTS)
def test_a_cell_of_a_table_stays_a_cell(one, two):
    table = f"| a | b |\n| --- | --- |\n| {in_markdown(one)} | {in_markdown(two)} |"
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(table)
    cells = [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "td_open"]
    assert len(cells) == 2
    for cell, text in zip(cells, (one, two), strict=True):
        shown = "".join(part.content for part in cell.children if part.type != "html_inline")
        assert shown == on_one_line(text.replace("\n", " ")).strip()


@pytest.mark.parametrize(
    "text", ["http://x.org", "see https://x", "www.x.org", "a@b.org", "@octocat", "#12"]
)
def test_github_makes_no_link_of_it(text):
    assert not re.search(r"(?<!\\)://|www\.|@\w|#\d", in_markdown(text))


@given(TEXTS)
def test_nothing_ends_a_fence(text):
    tokens = MarkdownIt("commonmark").parse(fenced(text))
    assert [token.type for token in tokens] == ["fence"]
    assert tokens[0].content == f"{on_terminal(text)}\n"


def test_names_of_files_show_their_bytes():
    assert on_one_line("plain-näme") == "plain-näme"
    assert on_one_line("a\nb\t") == "a\\nb\\t"
    assert on_one_line(os.fsdecode(b"bad\xff")).encode() == b"bad\\xff"
    assert on_one_line("\ud800") == "\\ud800"

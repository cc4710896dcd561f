"""Escape untrusted text for terminals, CI logs, XML, JSON and Markdown.

Names and texts in checkpoints, logs and data sets, and the messages of libraries that quote them,
may contain escape sequences, bidirectional overrides, lone surrogates, commands that a CI runner
reads from its log, Markdown and HTML.
"""

import re
from collections.abc import Sequence

_RUNNERS = re.compile(r"^(\s*):(?=:)|#(?=#(?:vso|teamcity)?\[)", re.MULTILINE)
"""Prefixes of commands in the logs of GitHub Actions, Azure Pipelines and TeamCity."""
_ESCAPED_BYTE = range(0xDC80, 0xDD00)
"""Surrogates that stand for the bytes of a file name that are not UTF-8 (PEP 383)."""
_MARKDOWN = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{char: f"\\{char}" for char in "\\`*[]|~$"}}
)
_SYNTAX_IN_CONTEXT = (
    (r"(?<![^\W_])_|_(?![^\W_])", r"\\_"),  # emphasis, except inside a word
    (r"^([#+=-])", r"\\\1"),  # a heading, an item or a rule
    (r"^(\d+)([.)])", r"\1\\\2"),  # a numbered item
    (r":(?=//)", r"\\:"),  # bare URLs become links
    (r"(?i)\b(www)\.", r"\1\\."),
    # GitHub links mentions, mail addresses and issues after rendering, so escapes have no effect.
    (r"@", "@<!-- -->"),
    (r"#(?=\d)", "#<!-- -->"),
)


def on_terminal(text: str) -> str:
    """Escape all characters except printable ones, tabs and line ends, and commands to CI runners.

    The result is valid UTF-8 and valid in XML.
    """
    return _without_commands(printable(text))


def printable(text: str) -> str:
    """Escape all characters except printable ones, tabs and line ends: for HTML, where commands to
    CI runners have no effect."""
    return "\n".join(
        line if line.isprintable() else "".join(c if c == "\t" else _visible(c) for c in line)
        for line in text.split("\n")
    )


def on_one_line(text: str) -> str:
    """Escape as :func:`on_terminal` does, and also tabs and line ends: for names, test ids and
    messages."""
    return _without_commands("".join(map(_visible, text)))


def snippet(text: str, width: int = 160, place: int = 0) -> str:
    """Return ``text`` quoted and escaped on one line of at most ``width`` characters.

    Of a longer text, the part around the index ``place`` is shown, with ``...`` where text is
    omitted.
    """
    line = _without_commands(repr(text))
    if len(line) <= width:
        return line
    place = min(place, len(text))
    start = max(place - width // 3, 0)
    while start < place and len(repr(text[start:place])) > width // 2:
        start += 1  # escapes are longer than their characters
    # Below four characters, a mark would be as long as what it replaces.
    if start > len("..."):
        line = _without_commands(repr(f"...{text[start:]}"))
    return line if len(line) <= width else line[: width - 4] + "...'"


def first_difference(before: Sequence, after: Sequence) -> int:
    """Return the first index at which two different sequences differ.

    This is the length of the shorter one if it is a prefix of the longer one.
    """
    pairs = zip(before, after, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(after)))


def in_markdown(text: str) -> str:
    """Return ``text`` on one line with all Markdown and HTML syntax escaped."""
    line = on_one_line(text.replace("\n", " ")).strip().translate(_MARKDOWN)
    for pattern, replacement in _SYNTAX_IN_CONTEXT:
        line = re.sub(pattern, replacement, line)
    return line


def fenced(text: str, language: str = "text") -> str:
    """Return a fenced code block of Markdown that ``text`` cannot close."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{on_terminal(text)}\n{fence}"


def valid_unicode(text: str) -> str:
    """Escape lone surrogates, for JSON and for other processes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _visible(char: str) -> str:
    if char.isprintable():
        return char
    if ord(char) in _ESCAPED_BYTE:
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def _without_commands(text: str) -> str:
    return _RUNNERS.sub(lambda match: f"{match[1]}\\x3a" if match[1] is not None else "\\x23", text)

"""Makes text that others wrote safe for the places that it is shown in. Pure.

Names in checkpoints, logs and data sets, their texts, and what libraries say of them can hold
anything: escape sequences, bidirectional overrides, lone surrogates, commands that a CI runner
takes from its log, Markdown and HTML.
"""

import re

_RUNNERS = re.compile(r"^(\s*):(?=:)|#(?=#(?:vso|teamcity)?\[)", re.MULTILINE)
"""What begins a command in the log of GitHub Actions, Azure Pipelines and TeamCity."""
_ESCAPED_BYTE = range(0xDC80, 0xDD00)
"""What stands for the bytes of a file name that are not UTF-8 (PEP 383)."""
_MARKDOWN = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{char: f"\\{char}" for char in "\\`*[]|~$"}}
)
_AFTERWARDS = (
    (r"(?<![^\W_])_|_(?![^\W_])", r"\\_"),  # emphasis; inside a word it is none
    (r"^([#+=-])", r"\\\1"),  # a heading, an item or a rule
    (r"^(\d+)([.)])", r"\1\\\2"),  # a numbered item
    (r":(?=//)", r"\\:"),  # an address becomes a link by itself
    (r"(?i)\b(www)\.", r"\1\\."),
    # GitHub links mentions, mail addresses and issues after Markdown is rendered.
    (r"@", "@<!-- -->"),
    (r"#(?=\d)", "#<!-- -->"),
)


def on_terminal(text: str) -> str:
    """``text`` with everything but printable characters, tabs and line ends escaped, and with
    nothing that a CI runner takes for a command.

    The result is valid in UTF-8 and in XML too.
    """
    return _without_commands("".join(c if c in "\n\t" else _visible(c) for c in text))


def on_one_line(text: str) -> str:
    """``text`` as for :func:`on_terminal`, with tabs and line ends escaped as well: for names, ids
    of tests and messages."""
    return _without_commands("".join(map(_visible, text)))


def snippet(text: str, width: int = 160) -> str:
    """``text`` in quotes on one line, shortened, with all but printable characters escaped."""
    line = _without_commands(repr(text))
    return line if len(line) <= width else line[: width - 4] + "...'"


def in_markdown(text: str) -> str:
    """``text`` on one line, so that Markdown shows it as it is: without marks, links and HTML."""
    line = on_one_line(text.replace("\n", " ")).strip().translate(_MARKDOWN)
    for pattern, replacement in _AFTERWARDS:
        line = re.sub(pattern, replacement, line)
    return line


def fenced(text: str, language: str = "text") -> str:
    """A fenced code block of Markdown that no text inside can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{on_terminal(text)}\n{fence}"


def valid_unicode(text: str) -> str:
    """``text`` with lone surrogates escaped, for JSON and for other processes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _visible(char: str) -> str:
    if char.isprintable():
        return char
    if ord(char) in _ESCAPED_BYTE:
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def _without_commands(text: str) -> str:
    return _RUNNERS.sub(lambda found: f"{found[1]}\\x3a" if found[1] is not None else "\\x23", text)

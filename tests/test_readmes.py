"""The READMEs: links and anchors resolve, and the commands and options that they name exist."""

import re
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from compression_gates.compression.__main__ import main as compress
from compression_gates.fixtures.suite.command import SUBCOMMANDS
from compression_gates.fixtures.suite.command import main as gates
from compression_gates.fixtures.suite.profile import PROFILES

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "compression/README.md", "evals/README.md", "fixtures/README.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`|<code>([^<]+)</code>")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
OTHER_PROGRAMS = ("pip", "lm_eval", "unzip", "cp", "echo")
MOST_LINES = 200
UNKNOWN = object()

every_readme = pytest.mark.parametrize("name", READMES)


def prose(text: str) -> str:
    """The text without fenced blocks."""
    return FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a Markdown file."""
    found: set[str] = set()
    for heading in HEADING.findall(prose(text)):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count, name = 0, slug
        while name in found:
            count += 1
            name = f"{slug}-{count}"
        found.add(name)
    return found


def snippets(text: str) -> list[str]:
    """Commands in ``console`` blocks, other fenced blocks, and code spans."""
    found = [plain or html for plain, html in SPAN.findall(prose(text))]
    for language, block in FENCE.findall(text):
        if language == "console":
            lines = block.replace("\\\n", " ").splitlines()
            found += [line[2:] for line in lines if line.startswith("$ ")]
        else:
            found.append(block)
    return [" ".join(snippet.split()) for snippet in found]


def source_of(module: str) -> str:
    """The source of what ``python -m module`` runs."""
    spec = find_spec(module)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = find_spec(f"{module}.__main__")
    assert spec is not None, f"python -m {module}: no such module"
    return Path(spec.origin).read_text(encoding="utf-8")


@pytest.fixture
def options_of(capsys, pytestconfig):
    """``options_of(snippet)``: a predicate for the options that its program accepts."""

    def printed(main) -> set[str]:
        with suppress(SystemExit):
            main(["--help"])
        return set(OPTION.findall(capsys.readouterr().out))

    of_compress, of_gates = printed(compress), printed(gates)
    of_history = set(OPTION.findall(source_of("compression_gates.fixtures.suite.history")))

    def by_pytest(option: str) -> bool:
        return option in of_gates or pytestconfig.getoption(option, UNKNOWN) is not UNKNOWN

    def predicate(snippet: str):
        module = re.match(r"python -m ([\w.]+)", snippet)
        if snippet.startswith(OTHER_PROGRAMS):
            return lambda option: True
        if snippet.startswith("compression-gates compress"):
            return of_compress.__contains__
        if snippet.startswith("compression-gates history"):
            return of_history.__contains__
        if snippet.startswith("pytest tests/fuzz"):
            own = (ROOT / "tests" / "fuzz" / "conftest.py").read_text()
            return lambda option: f'"{option}"' in own
        if module and module[1] not in ("compression_gates", "pytest"):
            own = source_of(module[1])
            return lambda option: f'"{option}"' in own
        if snippet.startswith(("compression-gates", "pytest", "python -m")):
            return by_pytest
        # An option by itself: of whichever command the sentence is about.
        architectures = source_of("compression_gates.compression.architectures")
        return lambda option: (
            by_pytest(option)
            or option in of_compress | of_history
            or f'"{option}"' in architectures
        )

    return predicate


@every_readme
def test_every_relative_link_and_anchor_resolves(name):
    file = ROOT / name
    text = file.read_text(encoding="utf-8")
    links = [link for link in LINK.findall(prose(text)) if "://" not in link]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_anchors_are_those_of_github():
    text = "# A `b`, c\n## D: e-f\n## D: e-f\n```console\n# no heading\n```\n"
    assert anchors(text) == {"a-b-c", "d-e-f", "d-e-f-1"}


def test_the_root_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES


@every_readme
def test_every_module_that_is_run_exists(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for module in re.findall(r"python\s+-m\s+([\w.]+)", text):
        assert "__main__" in source_of(module), module


@every_readme
def test_every_option_exists(name, options_of):
    for snippet in snippets((ROOT / name).read_text(encoding="utf-8")):
        accepts = options_of(snippet)
        for option in OPTION.findall(snippet):
            assert accepts(option), f"{option} in {snippet[:200]}"


@every_readme
def test_every_subcommand_and_profile_exists(name):
    profiles = {path.stem for path in PROFILES.glob("*.toml")}
    for snippet in snippets((ROOT / name).read_text(encoding="utf-8")):
        for word in re.findall(r"\bcompression-gates ([a-z]+)", snippet):
            assert word in SUBCOMMANDS, snippet
        for profile in re.findall(r"--profile ([\w.-]+)", snippet):
            assert profile in profiles or profile in ("mine.toml", "NAME_OR_FILE"), snippet

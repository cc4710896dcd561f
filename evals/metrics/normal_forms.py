"""Normal forms in which answers are compared with the expected ones.

Exact match and F1 of questions on a passage are published in SQuAD's form (Rajpurkar et al. 2016).
It removes all punctuation, including signs, decimal points and operators, so that "-5" equals "5",
"3.5" equals "35", "C++" equals "C", and "A" equals an empty answer. For other prompts such a
difference can be the answer. DROP's form (Dua et al. 2019) keeps these symbols in numbers only;
:func:`keeping_symbols` keeps them in all words, and removes only the punctuation around words.
"""

import re
import string
from collections.abc import Callable, Mapping

from compression_gates.evals.data.items import SQUAD, SYMBOLS, DataSet

_ARTICLES = ("a", "an", "the")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SIGNS = str.maketrans({"\u2212": "-", "\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"'})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_AROUND = (("**", "**"), ("`", "`"), ('"', '"'), ("'", "'"), ("(", ")"), ("[", "]"), ("{", "}"))
"""Delimiters around a word or around the whole answer that are removed."""
_AFTER_WORD, _AFTER_NUMBER = ".,;:!?\"'", ".,;:?\"'"
"""Punctuation that is removed at the end of a word; 5! is kept because it differs from 5."""


def squad(answer: str) -> str:
    """Return SQuAD's normal form: lower case, without punctuation, articles and extra white space.

    >>> squad("The  Old-Mill.")
    'oldmill'
    """
    return " ".join(_ARTICLE.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def keeping_symbols(answer: str) -> str:
    """Return a normal form like SQuAD's that keeps signs, decimal points and symbols.

    Removed are articles before another word, quotes and brackets around a word, commas between
    thousands, and punctuation after a word. An answer that would be empty is kept as it is.

    >>> keeping_symbols("The  answer is **-3.5**.")
    'answer is -3.5'
    >>> keeping_symbols("C++, 1,000 %")
    'c++ 1000 %'
    """
    answer = _THOUSANDS.sub("", answer.lower().translate(_SIGNS)).strip()
    words = answer.split()
    kept = [
        _bare(word)
        for place, word in enumerate(words)
        if word not in _ARTICLES or place + 1 == len(words)
    ]
    return " ".join(filter(None, kept)) or answer


def _bare(word: str) -> str:
    """Return a word without surrounding delimiters and punctuation."""
    while True:
        is_number = word.rstrip(_AFTER_WORD)[-1:].isdigit()
        core = word.rstrip(_AFTER_NUMBER if is_number else _AFTER_WORD)
        core = core.lstrip("\"'")
        for left, right in _AROUND:
            inside = core[len(left) : -len(right)]
            if core == f"{left}{inside}{right}" and inside and not {left, right} & set(inside):
                core = inside
        if core == word:
            return word
        word = core


FORMS: Mapping[str, tuple[Callable[[str], str], str]] = {
    SQUAD: (squad, "SQuAD's normal form: lower case, without punctuation and articles"),
    SYMBOLS: (
        keeping_symbols,
        "a normal form that keeps symbols: lower case, without articles and the punctuation of "
        "sentences, with signs, decimal points and operators",
    ),
}
"""Functions of the normal forms, and their descriptions in the report."""


def form_of(data: DataSet) -> tuple[Callable[[str], str], str]:
    """Return the normal form of a data set, and its description in the report."""
    return FORMS[data.normal_form]

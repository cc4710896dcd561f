"""Normal forms in which an answer is compared with what is expected.

SQuAD's (Rajpurkar et al. 2016) is what exact match and F1 of questions on a passage are published
in. It removes all punctuation, signs, decimal points and operators among it: "-5" and "5", "3.5"
and "35", "C++" and "C" are one answer there, and so are "A" and nothing. Of other prompts these may
be what is asked for. DROP's form (Dua et al. 2019) keeps them in numbers alone;
:func:`keeping_symbols` keeps them in all words, and leaves out only what a sentence puts around a
word.
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
"""What may stand around a word, or around the whole answer, without being of it."""
_AFTER_WORD, _AFTER_NUMBER = ".,;:!?\"'", ".,;:?\"'"
"""What ends a sentence or a part of one; 5! is not 5."""


def squad(answer: str) -> str:
    """SQuAD's normal form: lower case, without punctuation and articles, split at white space.

    >>> squad("The  Old-Mill.")
    'oldmill'
    """
    return " ".join(_ARTICLE.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def keeping_symbols(answer: str) -> str:
    """As SQuAD's, but signs, decimal points and symbols are of the answer.

    Left out are articles before another word, quotes and brackets around a word, commas between
    thousands, and punctuation behind a word. An answer of which nothing would be left stays.

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
    """A word without what a sentence puts around it."""
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
"""Each form, and what the report says of it."""


def form_of(data: DataSet) -> tuple[Callable[[str], str], str]:
    """The normal form of a data set, and what the report says of it."""
    return FORMS[data.normal_form]

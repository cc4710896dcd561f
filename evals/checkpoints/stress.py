"""Fixed texts and conversations on which two tokenizers and two chat templates are compared."""

import re
from collections.abc import Mapping, Sequence

TEXTS: Mapping[str, str] = {
    "nothing": "",
    "plain words": "The quick brown fox jumps over the lazy dog.",
    "capitals": "NASA and McDonald's sold iPhones in THE USA, straße STRASSE, İstanbul Ilgaz",
    "digits": "0 7 42 365 1000 12345 1234567890 3.14159 -17 1,000,000 0x1F 1e-5 2024-02-29 12:30",
    "other digits": "²³ ½ Ⅷ ４２ ٣٤٥ १२३",
    "one space": " ",
    "spaces": "a  b   c    d        e                f",
    "spaces around": "  leading and trailing   ",
    "tabs": "a\tb\t\tc\t \td",
    "line ends": "\none\ntwo\n\nthree\n\n\n\nfour\r\nfive\r six\n",
    "other white space": "a\u00a0b\u2003c\u3000d\u200be\u2028f\ufeffg",
    "contractions": "I'm, you're, he'll, we've, DON'T, it's, 'tis the '90s; l’été, rock’n’roll",
    "punctuation": "Wait... what?! (No) [yes] {maybe} -- em—dash; $5.00 & 50% #1 @x *a* _b_ `c` d",
    "spaces before punctuation": "Well , do n't you ' re here . Is n't it ? Yes ! I 'm",
    "quotation marks": "\"straight\" “curly” «angled» „low“ 'single' ‘single’",
    "address": "https://www.example.org/a_b?c=d&e=%20f#g user.name+tag@example.com C:\\Temp\\x.txt",
    "code": 'def f(x: int = 0) -> str:\n    if x >= 1:\n\t\treturn f"{x!r}"  # so\n    return\n',
    "more code": 'for(int i=0;i<n;++i){a[i]<<=2;}\n<p class="x">&nbsp;</p>\n{"k": [1, null]}\n',
    "long word": "antidisestablishmentarianism" + "a" * 120 + "Donaudampfschifffahrtsgesellschaft",
    "camel case": "camelCaseName snake_case_name SCREAMING_CASE kebab-case v2.0.1-rc1",
    "emoji": "😀👍🏽👨‍👩‍👧‍👦🇩🇪❤️ ☃ ✓",
    "accents": "naïve café Ångström Łódź Đà Nẵng",
    "combining marks": "nai\u0308ve cafe\u0301 A\u030angstro\u0308m o\u0302\u0323 क\u093c",
    "compatibility characters": "ﬁ ﬂ Ｆｕｌｌ ｗｉｄｔｈ ㎏ ™ ℌ ｶﾞ …",
    "Greek": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία ΣΟΦΟΣ",
    "Cyrillic": "Съешь же ещё этих мягких французских булок, їжак",
    "Arabic": "صِف خَلقَ خَودٍ كَمِثلِ الشَمسِ، لا إله",
    "Hebrew": "דג סקרן שט בים מאוכזב שָׁלוֹם",
    "Devanagari": "ऋषियों को सताने वाले दुष्ट राक्षसों",
    "Thai": "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "Chinese": "视野无限广，窗外有蓝天。繁體中文也要",
    "Japanese": "いろはにほへと チリヌルヲ 漢字かな交じり文。",
    "Korean": "키스의 고유조건은 입술끼리 만나야 하고 한글",
    "rare characters": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 ꙮ ᚠᛇᚻ 𓀀 \ue000 \ufffd",
    "control characters": "a\x00b\x07c\x1bd\x7fe",
    "marks of tokenizers": "▁a Ġb Ċ ##c @@d </w> <0x41> Â",
}  # fmt: skip
"""What each text stresses, and the text. None holds a string that is likely to be added as a token
of its own, so that a candidate that adds a padding token is tokenized as its baseline is."""

AROUND = ("{}", "a {} b", "a{}b", "{}{}", " {}\n", "a  {}  b", "a\n{}\nb")
"""Where a special token is put into a text: alone, and with what it may strip around it."""


_CONTROL = re.compile(r"<[|/｜]?[\w▁-]+[|｜]?>|\[/?[A-Z][A-Z_]*\]|<\|.*\|>", re.DOTALL)
_RESERVED = re.compile(r"reserved|unused|dummy|placeholder", re.IGNORECASE)


def is_reserved(token: str) -> bool:
    """Whether a token says of itself that it stands for nothing yet."""
    return bool(_RESERVED.search(token))


def is_control(token: str) -> bool:
    """Whether a token is spelled as special tokens are, such as ``<pad>`` and ``[MASK]``."""
    return bool(_CONTROL.fullmatch(token))


def _tool(name: str, argument: str) -> dict:
    parameter = {"type": "string", "description": f"The {argument}."}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Returns what {name} knows.",
            "parameters": {
                "type": "object", "properties": {argument: parameter}, "required": [argument],
            },
        },
    }  # fmt: skip


TOOLS: Sequence[dict] = (_tool("weather", "city"), _tool("rate", "currency"))
_SYSTEM = {"role": "system", "content": "You are terse.\nAnswer in one line."}
_USER = {"role": "user", "content": "What is 2 + 2?"}
_ASSISTANT = {"role": "assistant", "content": "It is 4."}
_MORE = {"role": "user", "content": "  And 3 + 3?\n\n"}
_REASONED = {"role": "assistant", "content": "<think>\nThree and three.\n</think>\n\n 6 "}
_REASONING = {"role": "assistant", "content": "6", "reasoning_content": "Three and three."}
_CALL = {"name": "weather", "arguments": {"city": "Wien"}}
_CALLS = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "a1B2c3D4e", "type": "function", "function": _CALL}],
}
_RESULT = {
    "role": "tool", "name": "weather", "tool_call_id": "a1B2c3D4e", "content": '{"sky": "clear"}',
}  # fmt: skip
_MORE_CALLS = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "a1B2c3D4e", "type": "function", "function": _CALL},
        {"id": "f5G6h7I8j", "type": "function",
         "function": {"name": "rate", "arguments": {"currency": "€ <b> 円"}}},
    ],
}  # fmt: skip
_MORE_RESULTS = (
    _RESULT,
    {"role": "tool", "name": "rate", "tool_call_id": "f5G6h7I8j", "content": '{"rate": "1€"}'},
)
_CALL_IN_JSON = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "a1B2c3D4e", "type": "function",
         "function": {"name": "weather", "arguments": '{"city": "Wien"}'}},
    ],
}  # fmt: skip
_DEVELOPER = {"role": "developer", "content": "Use no tables."}
_NO_SYSTEM = {"role": "system", "content": ""}
_IPYTHON = {"role": "ipython", "content": '{"sky": "clear"}'}
_FOREIGN = {
    "role": "user",
    "content": 'Straße & <b>日本</b>, "naïve" it\'s 😀?',
}
_PARTS = {"role": "user", "content": [{"type": "text", "text": "What is 2 + 2?"}]}

CONVERSATIONS: Mapping[str, Sequence[dict]] = {
    "a user": (_USER,),
    "a system and a user": (_SYSTEM, _USER),
    "two turns": (_USER, _ASSISTANT),
    "three turns": (_USER, _ASSISTANT, _MORE),
    "four turns": (_USER, _ASSISTANT, _MORE, _REASONED),
    "four turns behind a system": (_SYSTEM, _USER, _ASSISTANT, _MORE, _REASONED),
    "a reasoning assistant": (_USER, _ASSISTANT, _MORE, _REASONING),
    "a turn after reasoning": (_MORE, _REASONING, _USER),
    "a user who sends parts": (_PARTS,),
    "a call of a tool": (_USER, _CALLS),
    "the result of a tool": (_USER, _CALLS, _RESULT),
    "an answer from a tool": (_SYSTEM, _USER, _CALLS, _RESULT, _ASSISTANT, _MORE),
    "two calls of tools": (_USER, _MORE_CALLS),
    "the results of two tools": (_USER, _MORE_CALLS, *_MORE_RESULTS),
    "a call with arguments in JSON": (_USER, _CALL_IN_JSON, _RESULT),
    "the result of a tool from ipython": (_USER, _CALLS, _IPYTHON),
    "a developer and a user": (_DEVELOPER, _USER),
    "a system, a developer and a user": (_SYSTEM, _DEVELOPER, _USER),
    "an empty system and a user": (_NO_SYSTEM, _USER),
    "a second system": (_SYSTEM, _USER, _ASSISTANT, _DEVELOPER | {"role": "system"}, _MORE),
    "marks and scripts": (_FOREIGN, _ASSISTANT, _FOREIGN),
    "eleven turns": (*(_USER, _ASSISTANT, _MORE, _REASONED) * 2, _USER, _ASSISTANT, _MORE),
}
"""Who speaks, and the messages."""
VARIABLES: Mapping[str, Mapping[str, object]] = {
    "without thinking": {"enable_thinking": False},
    "with thinking": {"enable_thinking": True},
    "with documents": {"documents": [{"title": "Sums", "text": "2 + 2 is 4."},
                                     {"title": "More", "text": "3 + 3 is 6."}]},
}  # fmt: skip
"""What templates may be asked for besides, by how it is told."""

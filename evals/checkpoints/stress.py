"""Fixed texts and conversations on which tokenizers and chat templates are compared."""

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
"""Texts by what they exercise. None contains a string that is likely to be an added token, so that
a candidate with an additional padding token gives the same tokens as its baseline."""
AROUND = ("{}", "a {} b", "a{}b", "{}{}", " {}\n", "a  {}  b", "a\n{}\nb")
"""Contexts of a special token: alone, and with characters around it that it may strip."""
_CONTROL = re.compile(r"<[|/｜]?[\w▁-]+[|｜]?>|\[/?[A-Z][A-Z_]*\]|<\|.*\|>", re.DOTALL)
_RESERVED = re.compile(r"reserved|unused|dummy|placeholder", re.IGNORECASE)


def is_reserved(token: str) -> bool:
    """Return whether a token is a placeholder by its name, such as ``<|reserved_1|>``."""
    return bool(_RESERVED.search(token))


def is_control(token: str) -> bool:
    """Return whether a token is spelled like special tokens, such as ``<pad>`` and ``[MASK]``."""
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


def _tool_calls(*functions: dict) -> dict:
    calls = [
        {"id": identifier, "type": "function", "function": function}
        for identifier, function in zip(_CALL_IDS, functions, strict=False)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _tool_result(index: int, name: str, content: str) -> dict:
    return {"role": "tool", "name": name, "tool_call_id": _CALL_IDS[index], "content": content}


_CALL_IDS = ("a1B2c3D4e", "f5G6h7I8j")
TOOLS: Sequence[dict] = (_tool("weather", "city"), _tool("rate", "currency"))
_SYSTEM = {"role": "system", "content": "You are terse.\nAnswer in one line."}
_USER = {"role": "user", "content": "What is 2 + 2?"}
_ASSISTANT = {"role": "assistant", "content": "It is 4."}
_MORE = {"role": "user", "content": "  And 3 + 3?\n\n"}
_REASONED = {"role": "assistant", "content": "<think>\nThree and three.\n</think>\n\n 6 "}
_REASONING = {"role": "assistant", "content": "6", "reasoning_content": "Three and three."}
_WEATHER = {"name": "weather", "arguments": {"city": "Wien"}}
_CALL = _tool_calls(_WEATHER)
_CALL_IN_JSON = _tool_calls({"name": "weather", "arguments": '{"city": "Wien"}'})
_TWO_CALLS = _tool_calls(_WEATHER, {"name": "rate", "arguments": {"currency": "€ <b> 円"}})
_RESULT = _tool_result(0, "weather", '{"sky": "clear"}')
_TWO_RESULTS = (_RESULT, _tool_result(1, "rate", '{"rate": "1€"}'))
_DEVELOPER = {"role": "developer", "content": "Use no tables."}
_NO_SYSTEM = {"role": "system", "content": ""}
_IPYTHON = {"role": "ipython", "content": '{"sky": "clear"}'}
_FOREIGN = {"role": "user", "content": 'Straße & <b>日本</b>, "naïve" it\'s 😀?'}
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
    "a call of a tool": (_USER, _CALL),
    "the result of a tool": (_USER, _CALL, _RESULT),
    "an answer from a tool": (_SYSTEM, _USER, _CALL, _RESULT, _ASSISTANT, _MORE),
    "two calls of tools": (_USER, _TWO_CALLS),
    "the results of two tools": (_USER, _TWO_CALLS, *_TWO_RESULTS),
    "a call with arguments in JSON": (_USER, _CALL_IN_JSON, _RESULT),
    "the result of a tool from ipython": (_USER, _CALL, _IPYTHON),
    "a developer and a user": (_DEVELOPER, _USER),
    "a system, a developer and a user": (_SYSTEM, _DEVELOPER, _USER),
    "an empty system and a user": (_NO_SYSTEM, _USER),
    "a second system": (_SYSTEM, _USER, _ASSISTANT, _DEVELOPER | {"role": "system"}, _MORE),
    "marks and scripts": (_FOREIGN, _ASSISTANT, _FOREIGN),
    "eleven turns": (*(_USER, _ASSISTANT, _MORE, _REASONED) * 2, _USER, _ASSISTANT, _MORE),
}
"""Lists of messages, by a description of them."""
VARIABLES: Mapping[str, Mapping[str, object]] = {
    "without thinking": {"enable_thinking": False},
    "with thinking": {"enable_thinking": True},
    "with documents": {"documents": [{"title": "Sums", "text": "2 + 2 is 4."},
                                     {"title": "More", "text": "3 + 3 is 6."}]},
}  # fmt: skip
"""Additional variables of templates, by a description of them."""

"""Chat templates are compared by the tokens of rendered conversations."""

import json

import pytest

from compression_gates.evals.checkpoints import chat
from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
from compression_gates.evals.checkpoints.compare import Sides
from compression_gates.evals.checkpoints.findings import Severity
from compression_gates.evals.data.items import DataSet, Prompt, ProtocolOverrides
from compression_gates.evals.scoring import prompts

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def token(content, **flags):
    usual = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    return {"id": 0, "content": content, **usual, **flags}


def add(*contents, **flags):
    """Append tokens to the vocabulary, which has 569 entries and 576 rows."""

    def change(described):
        for index, content in enumerate(contents):
            described["added_tokens"].append(token(content, **flags) | {"id": 569 + index})

    return change


@pytest.fixture
def chats(copies):
    """Two copies whose template writes added tokens."""
    checkpoints = copies()
    checkpoints.change("tokenizer.json", add("<|im_start|>", "<|im_end|>"), both=True)
    for place in (checkpoints.base, checkpoints.candidate):
        (place / "chat_template.jinja").write_text(TEMPLATE)
    return checkpoints


def template(chats, text):
    (chats.candidate / "chat_template.jinja").write_text(text)
    return chats.findings()


def rendered(chats, text):
    """Return the findings of the comparison of templates alone."""
    (chats.candidate / "chat_template.jinja").write_text(text)
    return chats.findings(compare=chat.compare)


NOTED_TEXT = {
    "text of the chat template": (
        Severity.NOTED,
        "the chat templates have different texts, but render the compared chats alike",
    )
}


def test_equal_templates(chats):
    assert chats.findings() == {}


def test_lost_token_of_the_template(chats):
    chats.change("tokenizer.json", lambda t: t["added_tokens"].pop())
    severity, text = chats.findings()["chat token"]
    assert severity == Severity.REFUSED
    assert "'<|im_end|>' (570) for the baseline and 10 tokens for the candidate" in text


def test_lost_token_in_an_unreached_branch(chats):
    unreached = "{% if messages[0].role == 'critic' %}<|critic|>{% endif %}"
    for place in (chats.base, chats.candidate):
        (place / "chat_template.jinja").write_text(TEMPLATE + unreached)
    chats.change("tokenizer.json", add("<|critic|>"), both=True)
    chats.change("tokenizer.json", lambda t: t["added_tokens"].pop())
    severity, text = chats.findings()["chat token"]
    assert severity == Severity.REFUSED
    assert "'<|critic|>'" in text


def test_lost_token_that_the_template_concatenates(copies):
    checkpoints = copies()
    checkpoints.change("tokenizer.json", add("<|user|>"), both=True)
    for place in (checkpoints.base, checkpoints.candidate):
        (place / "chat_template.jinja").write_text(
            "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{{ m['content'] }}{% endfor %}"
        )
    checkpoints.change("tokenizer.json", lambda t: t["added_tokens"].pop())
    severity, text = checkpoints.findings()["chat token"]
    assert severity == Severity.REFUSED
    assert "'<|user|>' (569)" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "{#- the same -#}" + text,
        lambda text: text.replace("m['role']", "m.role").replace(" m in", "  m  in"),
        lambda text: text.replace("{{ bos_token }}", "{{ '<s>' }}"),
    ],
)
def test_equivalent_templates_are_noted(chats, change):
    assert template(chats, change(TEMPLATE)) == NOTED_TEXT


def test_unreached_branch_is_noted(chats):
    findings = template(chats, TEMPLATE + "{% if messages[0].role == 'critic' %}!{% endif %}")
    assert findings == NOTED_TEXT


def test_white_space_around_a_template_is_ignored(chats):
    assert template(chats, TEMPLATE + "\n") == {}


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda text: text.replace("assistant\n", "assistant"), "that asks for an answer"),
        (lambda text: text.replace("{{ bos_token }}", ""), "'<s><|im_start|>"),
        (lambda text: text.replace("m['content']", "m['content'] | trim"), "three turns"),
        (
            lambda text: text.replace("{{ m['role'] }}", "{{ 'user' if tools else m['role'] }}"),
            "with tools",
        ),
        (
            lambda text: text + "{% if messages[-1].role == 'tool' %}!{% endif %}",
            "the result of a tool",
        ),
        (lambda text: text.replace("messages %}", "messages[-3:] %}"), "four turns"),
        (
            lambda text: text.replace("m['content']", "m['content'].split('</think>')[-1]"),
            "four turns",
        ),
        (lambda text: text + "{% if enable_thinking is false %}<think>{% endif %}", "thinking"),
    ],
)  # fmt: skip
def test_different_rendering(chats, change, shown):
    severity, text = rendered(chats, change(TEMPLATE))["chat template"]
    assert severity == Severity.REFUSED
    assert text.startswith("the chat templates differ on ")
    assert shown in text


RICH = (
    "{% for m in messages %}{% if m.role == 'developer' %}Developer: {{ m.content }}"
    "{% elif m.role == 'ipython' %}Output: {{ m.content }}{% elif m.tool_calls %}"
    "{% for t in m.tool_calls %}{{ t.function.name }} {{ t.function.arguments | tojson }}"
    "{% endfor %}{% else %}{{ m.role }}: {{ m.content }}{% endif %}\n{% endfor %}"
    "{% if documents %}{{ documents }}{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("Developer: {{ m.content }}", "", "a developer"),
        ("Output: ", "Tool: ", "from ipython"),
        ("in m.tool_calls", "in m.tool_calls[:1]", "two calls of tools"),
        ("| tojson", "| tojson(ensure_ascii=True)", "two calls of tools"),
        ("t.function.arguments | tojson",
         "t.function.arguments if t.function.arguments is string else "
         "t.function.arguments | tojson", "arguments in JSON"),
        ("{% if documents %}{{ documents }}{% endif %}", "", "with documents"),
        ("in messages", "in messages[-7:]", "eleven turns"),
        ("{% else %}", "{% elif m.role == 'system' and not loop.first %}{% else %}",
         "a second system"),
        ("{% else %}", "{% elif m.role == 'system' and not m.content %}{% else %}",
         "an empty system"),
        ("{% if enable_thinking is defined",
         "{% if enable_thinking %}<think>{% endif %}{% if enable_thinking is defined",
         "with thinking"),
        ("{{ m.role }}: {{ m.content }}", "{{ m.role }}: {{ m.content | e }}", "four turns"),
        ("{{ m.role }}: {{ m.content }}", "{{ m.role }}: {{ m.content | replace('\u00df', 'ss') }}",
         "marks and scripts"),
    ],
)  # fmt: skip
def test_different_branch_of_a_rich_template(chats, old, new, shown):
    assert old in RICH
    (chats.base / "chat_template.jinja").write_text(RICH)
    severity, text = rendered(chats, RICH.replace(old, new))["chat template"]
    assert severity == Severity.REFUSED
    assert shown in text


def test_equal_rich_templates(chats):
    (chats.base / "chat_template.jinja").write_text(RICH)
    assert template(chats, RICH) == {}


SLOW = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


def test_length_of_data_with_a_slow_template(chats, monkeypatch):
    monkeypatch.setattr(prompts, "RENDER_SECONDS", 0.2)
    (chats.base / "chat_template.jinja").write_text(SLOW + TEMPLATE)
    baseline = open_checkpoint(chats.base)
    data = DataSet("prompts", (Prompt("Who is Lena?", "Nobody.", 0),), ProtocolOverrides(chat=True))
    assert Sides(baseline, baseline, [data]).lengths.sequence > 0


@pytest.mark.parametrize("side", ["base", "candidate"])
def test_slow_template_is_rendered_once(chats, monkeypatch, side):
    monkeypatch.setattr(prompts, "RENDER_SECONDS", 0.2)
    (getattr(chats, side) / "chat_template.jinja").write_text(SLOW + TEMPLATE)
    timed_out = []
    render = chat.render

    def counted(*args):
        rendering = render(*args)
        timed_out.extend([rendering] if rendering.timed_out else [])
        return rendering

    monkeypatch.setattr(chat, "render", counted)
    findings = chats.findings()
    assert len(timed_out) == 1
    if side == "candidate":
        severity, text = findings["chat template"]
        assert severity == Severity.REFUSED
        assert "no end after" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{# nothing #}", "template fails: it writes nothing"),
        ("{{ raise_exception('no\nchats') }}", "template fails: TemplateError: no"),
        (
            "{{ messages[0].content.nothing.more }}",
            "template fails: UndefinedError",
        ),
        ("{% for", "template fails: TemplateSyntaxError"),
        ("{{ ''.__class__.__mro__ }}", "template fails: SecurityError"),
        ("{{ 'x' * 10000000 }}", "template fails: it writes 10,000,000 characters"),
    ],
)
def test_failing_template(chats, text, message):
    severity, text = rendered(chats, text)["chat template"]
    assert severity == Severity.REFUSED
    assert message in text


def test_template_has_the_limits_of_scoring(chats):
    _, text = template(chats, "{{ 'x' * 100000 }}")["chat template"]
    assert "template fails: it writes 100,000 characters" in text


def test_long_chat_is_not_tokenized(chats, monkeypatch):
    def small(tokenizer, text, *rest, **options):
        assert len(str(text)) < 1_000_000
        return call(tokenizer, text, *rest, **options)

    from transformers import PreTrainedTokenizerFast

    call = PreTrainedTokenizerFast.__call__
    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", small)
    assert "chat template" in template(chats, "{{ 'x' * 10000000 }}")


def test_lost_and_new_template(copies):
    checkpoints = copies()
    (checkpoints.candidate / "chat_template.jinja").unlink()
    lost = (Severity.REFUSED, "only the baseline has a chat template")
    assert checkpoints.findings() == {"chat template": lost}
    (checkpoints.base / "chat_template.jinja").rename(checkpoints.candidate / "chat_template.jinja")
    new = (Severity.NOTED, "only the candidate has a chat template")
    assert checkpoints.findings() == {"new chat template": new}


class TestPlaces:
    """A template can be in a separate file, in a folder, or in the configuration."""

    def test_configuration_is_read_without_a_file(self, chats):
        (chats.candidate / "chat_template.jinja").unlink()
        chats.change("tokenizer_config.json", lambda t: t.update(chat_template=TEMPLATE))
        assert chats.findings() == {}

    def test_list_of_templates(self, chats):
        named = [{"name": "default", "template": TEMPLATE}, {"name": "rag", "template": "{{ 1 }}"}]
        for place in (chats.base, chats.candidate):
            (place / "chat_template.jinja").unlink()
        chats.change("tokenizer_config.json", lambda t: t.update(chat_template=named), both=True)
        assert chats.findings() == {}
        named = [named[0], {"name": "rag", "template": "{{ 2 }}"}]
        chats.change("tokenizer_config.json", lambda t: t.update(chat_template=named))
        assert chats.findings()["chat template"][0] == Severity.REFUSED
        chats.change("tokenizer_config.json", lambda t: t.update(chat_template=named[:1]))
        message = "the candidate has no chat template named 'rag'"
        assert chats.findings() == {"chat template": (Severity.REFUSED, message)}

    def test_folder_of_additional_templates(self, chats):
        for place in (chats.base, chats.candidate):
            (place / "additional_chat_templates").mkdir()
            (place / "additional_chat_templates" / "tool_use.jinja").write_text(TEMPLATE)
        assert chats.findings() == {}
        file = chats.candidate / "additional_chat_templates" / "tool_use.jinja"
        file.write_text(TEMPLATE + "!")
        assert "with tools" in chats.findings()["chat template"][1]

    def test_list_saved_as_files(self, chats):
        named = [
            {"name": "default", "template": TEMPLATE},
            {"name": "tool_use", "template": TEMPLATE + "!"},
        ]
        (chats.base / "chat_template.jinja").unlink()
        described = json.loads((chats.base / "tokenizer_config.json").read_text())
        described["chat_template"] = named
        (chats.base / "tokenizer_config.json").write_text(json.dumps(described))
        (chats.candidate / "additional_chat_templates").mkdir()
        file = chats.candidate / "additional_chat_templates" / "tool_use.jinja"
        file.write_text(TEMPLATE + "!")
        assert chats.findings() == {}

    @pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.json"])
    def test_template_for_other_readers(self, chats, file):
        if not (chats.candidate / file).exists():
            (chats.candidate / file).write_text("{}")
        chats.change(file, lambda t: t.update(chat_template=TEMPLATE + "{# the same #}"))
        assert chats.findings() == {}
        chats.change(file, lambda t: t.update(chat_template=TEMPLATE + "!"))
        severity, text = chats.findings()["other chat template"]
        assert severity == Severity.FAILED
        assert text.startswith(f"{file} has another chat template: ")


def test_prompts_scored_as_a_chat(chats):
    text = TEMPLATE.replace("{{ m['content'] }}", "{{ m['content'] | replace('Lena', 'Rufus') }}")
    assert template(chats, text) == NOTED_TEXT
    data = DataSet("asked", (Prompt("Who is Lena?", "Nobody.", 0),), ProtocolOverrides(chat=True))
    severity, text = chats.findings(data)["chat template"]
    assert severity == Severity.REFUSED
    assert "'Who is Lena?' in asked" in text


def test_template_that_writes_the_time(chats):
    """The same template is rendered for two tokenizers at different times."""
    now = "{{ strftime_now('%H:%M:%S') }}"
    for place in (chats.base, chats.candidate):
        (place / "chat_template.jinja").write_text(now + TEMPLATE)
    chats.change("tokenizer.json", add("<|more|>"))
    assert {severity for severity, _ in chats.findings().values()} == {Severity.NOTED}

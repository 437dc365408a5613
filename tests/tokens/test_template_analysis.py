"""Which chat templates only copy the contents of messages: the shortcut is for those and no others."""

import pytest

from mistral_lib.model import base_model, demo_model, mistral_tokenizer
from mistral_lib.tokens.template_analysis import copies_contents


def each(body: str) -> str:
    return "{% for m in messages %}" + body + "{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [
        mistral_tokenizer.TEMPLATE,
        each("{{ '<' + m['role'] + '>' + m['content'] | trim + eos_token }}"),
        each("{% set text = m.content %}{{ text.strip() }}"),
        "{% set rest = messages[1:] %}{{ rest | length }}" + each("{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}"),
        each("{% if m['content'] is string %}{{ m['content'] }}{% endif %}"),
    ],
)
def test_templates_that_only_copy_contents_are_recognized(template: str) -> None:
    assert copies_contents(template)


def test_the_embedded_models_template_only_copies() -> None:
    assert copies_contents(base_model.load_tokenizer(demo_model.NAME).chat_template)


@pytest.mark.parametrize(
    "template",
    [
        each("{% if '</think>' in m['content'] %}{{ m['content'].split('</think>')[1] }}{% else %}{{ m['content'] }}{% endif %}"),
        each("{{ m['content'] | upper }}"),
        each("{{ m['content'].rstrip('x') }}"),
        each("{{ m['content'][:100] }}"),
        each("{{ m }}"),
        each("{% set text = m['content'] %}{% if text | length > 100 %}long{% endif %}{{ text }}"),
        each("{% set text = m['content'] if m['role'] == 'user' else m['content'] | upper %}{{ text }}"),
        each("{% set text = m['content'] %}{% set text = text.split('x')[0] %}{{ text }}"),
        each("{% set other = m %}{% for key in other %}{{ other[key] }}{% endfor %}"),
        each("{% if m['content'] == messages[0]['content'] %}again{% endif %}"),
        each("{% for key, value in m.items() %}{{ value }}{% endfor %}"),
        each("{% set ns = namespace(text=m['content']) %}{% if ns.text == 'x' %}y{% endif %}"),
        each("{% generation %}{{ m['content'] }}{% endgeneration %}"),
        "{% macro show(text) %}{% if 'x' in text %}y{% endif %}{{ text }}{% endmacro %}" + each("{{ show(m['content']) }}"),
        each("{% set text %}{{ m['content'] }}{% endset %}{% if 'x' in text %}y{% endif %}"),
        each("{% filter upper %}{{ m['content'] }}{% endfilter %}"),
        "{{ messages | tojson }}",
        "{{ messages }}",
        "{% for m in messages | reverse %}{{ m['content'] }}{% endfor %}",
        "{% for m in messages if 'x' in m['content'] %}{{ m['content'] }}{% endfor %}",
        "{{ messages | map(attribute='content') | join }}",
        "{% set all = messages if true else [] %}{% for m in all %}{{ m['content'] ~ (m['content'] | length) }}{% endfor %}",
    ],
)
def test_templates_that_inspect_or_change_contents_are_not_recognized(template: str) -> None:
    assert not copies_contents(template)

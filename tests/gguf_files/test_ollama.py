"""Modelfiles: the template renders every chat as it was trained, for each known format; what it cannot express is refused."""

import copy
from typing import Any

import pytest

from mistral_lib.gguf_files import go_template, ollama
from mistral_lib.model import base_model, demo_model, mistral_tokenizer
from tests.tokens.test_chat_format import chat

TEXTS = [
    "Hello", " one blank before", "  two  blanks  inside  and after  ", "\n\na newline first", "newlines last\n\n", "a\r\nb\tc",
    "naïve Zürich 東京 😀", "{{ .Content }} {{ end }}", '"""\nPARAMETER stop "x"', "say </s> and [/INST] <|im_end|> go",
]  # fmt: skip
LLAMA = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] | trim + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def tokenizer(version: str) -> Any:
    return base_model.load_tokenizer(demo_model.NAME) if version == "demo" else mistral_tokenizer.load(version)


@pytest.fixture(scope="module", params=["demo", "v1", "v3", "v7", "v3-tekken", "v7-tekken"])
def trained(request: pytest.FixtureRequest) -> Any:
    return tokenizer(request.param)


def with_template(given: Any, template: str) -> Any:
    other = copy.copy(given)
    other.chat_template = template
    return other


def test_every_chat_is_rendered_as_it_was_trained(trained: Any) -> None:
    modelfile = ollama.modelfile(trained, "x.gguf")
    compared = 0
    for text in TEXTS:
        for prompt in (
            chat(text), chat(text, "Fine.", text), chat(text, "Fine.", "So", "Yes.", text), chat(text, system="Be brief."),
            chat("So", system=text), chat(text, "Fine.", text, system=text),
        ):  # fmt: skip
            assert ollama.render(modelfile, prompt) == ollama.trained(trained, prompt)
            compared += 1
    assert compared == 6 * len(TEXTS)


def test_the_start_token_is_left_to_llama_cpp(trained: Any) -> None:
    rendered = ollama.render(ollama.modelfile(trained, "x.gguf"), chat("Hello"))
    with_start = trained("", add_special_tokens=True).input_ids == [trained.bos_token_id]
    assert with_start == (trained.bos_token == "<s>"), "Mistral's tokenizers add it, the embedded model's does not"
    assert rendered.startswith("<|im_start|>system" if not with_start else ("[INST]", " [INST]"))
    assert "<s>" not in rendered


@pytest.mark.parametrize(
    ("version", "stops"), [("demo", ["<|im_end|>", "<|im_start|>"]), ("v1", ["</s>", "[INST]"]), ("v3", ["</s>", "[INST]"])]
)
def test_what_ends_an_answer_is_written_out(version: str, stops: list[str]) -> None:
    lines = ollama.modelfile(tokenizer(version), "x.gguf").splitlines()
    assert [line for line in lines if line.startswith("PARAMETER stop")] == [f'PARAMETER stop "{stop}"' for stop in stops]


def test_files_and_parameters_are_in_the_modelfile() -> None:
    text = ollama.modelfile(tokenizer("v3"), "./gguf/base.gguf", adapter_name="gguf/lora.gguf", max_tokens=1024)
    lines = text.splitlines()
    assert {"FROM ./gguf/base.gguf", "ADAPTER ./gguf/lora.gguf", "PARAMETER num_ctx 1024", "PARAMETER temperature 0"} <= set(lines)
    assert "no Ollama was run" in text and all(line.startswith("#") for line in lines[: lines.index("FROM ./gguf/base.gguf")])
    assert "num_ctx" not in ollama.modelfile(tokenizer("v3"), "x.gguf")


def test_what_ollama_does_not_do_is_said_in_the_modelfile() -> None:
    assert "Blanks at the ends of assistant messages" in ollama.modelfile(tokenizer("v3"), "x.gguf")
    assert "Blanks" not in ollama.modelfile(tokenizer("v1"), "x.gguf")
    stripped = with_template(tokenizer("demo"), LLAMA)
    assert "Blanks at the ends of system and user and assistant messages" in ollama.modelfile(stripped, "x.gguf")
    without = mistral_tokenizer.TEMPLATES["v3"].replace("turns %}", "messages %}", 1)
    assert "System text: this chat format has none" not in ollama.modelfile(tokenizer("v3"), "x.gguf")
    refusing = with_template(tokenizer("v3"), "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}" + without)
    assert "System text: this chat format has none; Ollama leaves it out" in ollama.modelfile(refusing, "x.gguf")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{% for m in messages %}{{ loop.index ~ ': ' ~ m['content'] ~ eos_token }}{% endfor %}",
            "depends on more than its role and place",
        ),
        ("{{ '{{ ' }}{% for m in messages %}{{ m['content'] ~ eos_token }}{% endfor %}", "would end the template's own marks"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "writes no end token"),
        ("{{ raise_exception('never') }}", "refuses user"),
    ],
    ids=["numbered turns", "braces", "no end", "refuses"],
)
def test_a_format_that_cannot_be_written_is_refused(template: str, reason: str) -> None:
    with pytest.raises(ollama.UnsupportedTemplateError, match=f"no Modelfile can be written.*{reason}"):
        ollama.modelfile(with_template(tokenizer("demo"), template), "x.gguf")


def test_messages_are_joined_as_ollama_joins_them() -> None:
    messages = [*chat("one", system="a"), {"role": "user", "content": "two"}, {"role": "system", "content": "b"}]
    assert go_template.collate(messages) == ("a\n\nb", [*chat("one\n\ntwo", system="a"), {"role": "system", "content": "b"}])
    assert messages[1]["content"] == "one"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ if eq 1 2 }}a{{ else if .System }}b{{ else }}c{{ end }}", "b"),
        ('{{ range $n, $_ := .Messages }}{{ if and $.System (eq .Role "user") }}{{ $n }}{{ .Content }};{{ end }}{{ end }}', "1x;3z;"),
        ("{{ len (slice .Messages 1) }}", "3"),
        ("no action", "no action"),
    ],
)
def test_the_known_part_of_go_templates(template: str, expected: str) -> None:
    assert go_template.render(template, chat("x", "y", "z", system="s")) == expected


@pytest.mark.parametrize(
    "template",
    ["{{ .Tools }}", "{{- .System }}", "{{ if .System }}x", "{{ end }}", "{{ else }}", "{{ json .System }}", "{{ range .Messages }}{{ end }}",
     "{{ eq (1 2 }}", "{{ .System .System }}", "{{ slice .Messages }}", "{{ $n }}", "{{ if }}x{{ end }}"],
)  # fmt: skip
def test_what_is_not_known_of_go_templates_is_refused(template: str) -> None:
    with pytest.raises(go_template.GoTemplateError):
        go_template.render(template, chat("x"))


def test_a_modelfile_without_template_cannot_be_rendered() -> None:
    with pytest.raises(go_template.GoTemplateError, match="no TEMPLATE"):
        ollama.render("FROM x.gguf\n", chat("x"))

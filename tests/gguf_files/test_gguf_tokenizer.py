"""Token ids in GGUF files, made by llama.cpp: equal to those of the training and of mistral-common, for each kind of tokenizer.

One version runs each time; the others take a conversion each and run in make test-long.
"""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mistral_lib.gguf_files import gguf_conversion, gguf_file, gguf_tokenizer, llama_cpp_tokens, ollama
from mistral_lib.gguf_files.gguf_file import GgufError, TensorInfo
from mistral_lib.gguf_files.gguf_tokenizer import TokenizerError
from mistral_lib.model import mistral_tokenizer
from mistral_lib.run import files
from mistral_lib.tokens import chat_format
from tests.support import family, tiny_mistral
from tests.tokens import test_tool_chats as with_tools
from tests.tokens.test_chat_format import chat
from tests.tokens.test_mistral_versions import ValidationMode, true_ids, with_id

TEXTS = [
    "Hello", " one blank before", "  two blanks  inside  and after  ", "\n\na newline first", "newlines last\n\n", "a\r\nb\tc",
    "naïve Zürich 東京 😀👩‍👩‍👧 \u200b\u00a0 ﬁ① Ǆ ǅ ʰ ١٢٣", "def f(x):\n    return  x  # code\n", "-", "It's we're 1234.5e6!!! //…\n\n\n",
    "[REFERENCE_DOC_1] <0x0A> ▁ x", "\ue0000\ue001", "i" * 300,
]  # fmt: skip
CONTROL = ["say </s> and[/INST]<s> [TOOL_CALLS] <unk> go", "[INST]", "<s>", "</s> x"]
REFUSAL = "{% if messages[0]['content'] == 'Hello' %}{{ raise_exception('no chats here') }}{% endif %}"
PREPENDED = "v1 prepended"  # as the first published tokenizer.json put blanks
SLOW = ("v1", "v2", "v7", "v3-tekken", "v7-tekken", PREPENDED)


def fast(setting: dict[str, Any]) -> Any:
    """setting: the content of tokenizer.json."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer.from_str(json.dumps(setting))
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def tokenizer(version: str) -> Any:
    if version != PREPENDED:
        return mistral_tokenizer.load(version)
    given = mistral_tokenizer.load("v1")
    setting = json.loads(given.backend_tokenizer.to_str())
    blanks = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    setting |= {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": blanks}}
    own = fast(setting)
    own.chat_template = given.chat_template.replace("' [INST] '", "'[INST] '")  # the tokenizer adds the blank
    return own


@pytest.fixture(scope="module", params=["v3", *(pytest.param(version, marks=pytest.mark.long) for version in SLOW)])
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """Version, trained tokenizer, GGUF file of a tiny model."""
    folder = tmp_path_factory.mktemp("gguf")
    own = tokenizer(request.param)
    gguf_conversion.convert(tiny_mistral.save(folder / "model", own), folder / "tiny-f16.gguf")
    return request.param, own, folder / "tiny-f16.gguf"


def chats(texts: list[str]) -> list[list[dict[str, str]]]:
    """Chats that end with a user's message: answers in them have no blanks at their ends, which templates strip."""
    other = "Fine."
    return [
        made
        for text in texts
        for made in (
            chat(text), chat(text, other, text), chat(text, f"{text.strip()}.", other), chat(text, other, other, other, text),
            chat(text, system="Be brief."), chat(other, system=text.strip()), chat(text, other, text, system=text.strip()),
        )
    ]  # fmt: skip


def test_every_chat_has_equal_ids_in_the_file_in_training_and_in_mistral_common(converted: tuple[str, Any, Path]) -> None:
    version, own, gguf = converted
    prompts = chats(TEXTS)
    assert gguf_tokenizer.differences(own, gguf, prompts) == []
    complete = [[*prompt, {"role": "assistant", "content": text}] for prompt, text in zip(prompts, TEXTS * 7, strict=True)]
    assert gguf_tokenizer.differences(own, gguf, complete) == []
    found = llama_cpp_tokens.of_gguf(gguf, chats=[{"messages": prompt} for prompt in prompts]).chats
    expected = [true_ids(version.split()[0], prompt, mode=ValidationMode.test) for prompt in prompts]
    assert sum(one == other for one, other in zip(found, expected, strict=True)) == len(prompts) == 91
    assert all(ids.count(own.bos_token_id) == 1 and ids[0] == own.bos_token_id for ids in found), "one start token"


def test_prompts_of_ollama_have_equal_ids_through_llama_cpp(converted: tuple[str, Any, Path]) -> None:
    _, own, gguf = converted
    modelfile = ollama.modelfile(own, gguf.name)
    assert ollama.differences(own, modelfile, gguf, chats(TEXTS)) == []
    (doubled,) = llama_cpp_tokens.of_gguf(gguf, prompts=["<s>" + ollama.render(modelfile, chat("Hello"))]).prompts
    assert doubled[:2] == [own.bos_token_id] * 2, "llama.cpp adds the start token to a text that has one: the template must not write it"
    (injected,) = ollama.differences(own, modelfile, gguf, [chat("Hello"), chat(CONTROL[0])])
    assert (injected.chat, injected.reason) == (1, "control string")


def test_control_strings_in_a_text_are_text_between_control_tokens_and_named_in_a_chat(converted: tuple[str, Any, Path]) -> None:
    _, own, gguf = converted
    prompts = [chat("Hello"), *(chat(text) for text in CONTROL), chat("Hello", "Fine.", CONTROL[0], "Fine.", "So?")]
    found = gguf_tokenizer.differences(own, gguf, prompts)
    named = [place for place, prompt in enumerate(prompts) if gguf_tokenizer.holds_control_string(own, prompt)]
    assert named[-1] == len(prompts) - 1 and 0 not in named
    assert {(one.way, one.reason) for one in found} == {("chat", "control string")}, "as texts, all ids are equal"
    assert [one.chat for one in found] == named
    assert "control string): token" in str(found[0]) and str(found[0]).startswith(f"chat {named[0]} (chat")


def test_tools_have_equal_ids_between_control_tokens(converted: tuple[str, Any, Path]) -> None:
    """Through the template they differ: it is the workbook's own, which writes no tools; mistral-common's format is trained."""
    version, own, gguf = converted
    if version.startswith("v1"):
        pytest.skip("v1 has no tools")
    rows = [with_tools.mapped(with_id(messages), with_tools.TOOLS) for messages in with_tools.CHATS.values()]
    found = [one for row in rows for one in gguf_tokenizer.differences(own, gguf, [row.messages], row.tools)]
    assert found and {one.way for one in found} == {"chat"}


def test_rare_characters_are_reported_for_tekken_alone(converted: tuple[str, Any, Path], capsys: pytest.CaptureFixture[str]) -> None:
    version, own, gguf = converted
    gguf_tokenizer.require_same(own, gguf)
    found = gguf_tokenizer.differences(own, gguf, [chat(text) for text in gguf_tokenizer.RARE])
    assert bool(found) == ("tekken" in version) == ("splits rare characters" in capsys.readouterr().err)


# -- files that are not the trained tokenizer's -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def v3(converted: tuple[str, Any, Path]) -> tuple[Any, Path]:
    if converted[0] != "v3":
        pytest.skip("one version is enough")
    return converted[1:]


def altered(gguf: Path, target: Path, key: str, change: Any) -> Path:
    """A copy with another value in its metadata."""
    header = gguf_file.read(gguf, arrays=True)
    metadata = dict(header.metadata)
    metadata[key] = replace(metadata[key], value=change(metadata[key].value))
    infos = [TensorInfo(tensor.name, tensor.shape[::-1], tensor.qtype_value) for tensor in header.tensors]
    gguf_file.write(target, metadata, infos, (gguf_file.rows(header, tensor) for tensor in header.tensors))
    return target


def changed(values: list[Any], place: int, value: Any) -> list[Any]:
    return [*values[:place], value, *values[place + 1 :]]


@pytest.mark.parametrize(
    ("key", "change", "reason"),
    [
        ("tokenizer.ggml.add_space_prefix", lambda _: True, r"chat 0 \(texts, ids\)"),
        ("tokenizer.ggml.bos_token_id", lambda _: 2, r"chat 0 \(chat, ids\)"),
        (gguf_file.TOKEN_TYPES, lambda types: changed(types, 3, 1), r"'\[INST\]' is no control token in it"),
        (gguf_file.TOKENS, lambda tokens: changed(tokens, 1500, "zz"), "token 1500 is 'zz', expected "),
        (gguf_file.TEMPLATE, lambda template: template + " ", "the chat template is not the trained tokenizer's"),
        ("tokenizer.ggml.scores", lambda scores: [0.0] * len(scores), r"\(texts, ids\)"),
    ],
    ids=["stray blank", "other start token", "[INST] as text", "other token", "other template", "no scores"],
)
def test_another_tokenizer_in_the_file_is_found(v3: tuple[Any, Path], tmp_path: Path, key: str, change: Any, reason: str) -> None:
    own, gguf = v3
    with pytest.raises(TokenizerError, match=f"its tokenizer is not that of the model: .*{reason}"):
        gguf_tokenizer.require_same(own, altered(gguf, tmp_path / "other.gguf", key, change))


def test_a_file_that_llama_cpp_cannot_load_is_named_with_its_reason(v3: tuple[Any, Path], tmp_path: Path) -> None:
    gguf = v3[1]
    (tmp_path / "cut.gguf").write_bytes(gguf.read_bytes()[:-100_000])
    with pytest.raises(GgufError, match=r"llama.cpp cannot load .*cut.gguf \(exit code 1\): .*not within the file bounds"):
        llama_cpp_tokens.of_gguf(tmp_path / "cut.gguf", ["x"])


def test_a_template_that_refuses_a_chat_is_a_difference(v3: tuple[Any, Path], tmp_path: Path) -> None:
    own, gguf = v3
    strict = altered(gguf, tmp_path / "strict.gguf", gguf_file.TEMPLATE, lambda text: REFUSAL + text)
    (found,) = gguf_tokenizer.differences(own, strict, [chat("Hello")])
    assert (found.way, found.reason, found.found) == ("chat", "template", [])
    (said,) = llama_cpp_tokens.of_gguf(strict, chats=[{"messages": chat("Hello")}]).chats
    assert "no chats here" in said


@pytest.mark.long
@pytest.mark.parametrize("left_out", ["tokenizer.model", "add_prefix_space"])
def test_a_naive_conversion_is_found_wrong(left_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: the converter ends with code 0, and [INST] is text, or a blank follows it."""
    write = gguf_tokenizer.write_files

    def naive(own: Any, model: Path, folder: Path) -> str:
        kind = write(own, model, folder)
        if left_out == "tokenizer.model":
            (folder / left_out).unlink()
        setting = files.read_json(folder / "tokenizer_config.json")
        files.write_json(folder / "tokenizer_config.json", {key: value for key, value in setting.items() if key != "add_prefix_space"})
        return kind

    monkeypatch.setattr(gguf_tokenizer, "write_files", naive)
    model = tiny_mistral.save(tmp_path / "model", tokenizer("v3"))
    with pytest.raises(TokenizerError, match="its tokenizer is not that of the model"):
        gguf_conversion.convert(model, tmp_path / "gguf" / "naive.gguf")
    assert list((tmp_path / "gguf").iterdir()) == []


# -- the files for the converter ----------------------------------------------------------------------------------------


def test_the_model_s_own_vocabulary_is_taken_if_it_is_this_one(tmp_path: Path) -> None:
    own = tokenizer("v3")
    assert gguf_tokenizer.vocabulary_file(own, tmp_path) == mistral_tokenizer.vocabulary_file("v3")
    model = tmp_path / "tokenizer.model"
    model.write_bytes(mistral_tokenizer.vocabulary_file("v1").read_bytes())
    assert gguf_tokenizer.vocabulary_file(own, tmp_path) != model, "a file of another version"
    (tmp_path / "right").mkdir()
    right = tmp_path / "right" / "tokenizer.model"
    right.write_bytes(mistral_tokenizer.vocabulary_file("v3").read_bytes())
    assert gguf_tokenizer.vocabulary_file(own, tmp_path / "right") == right


def test_a_vocabulary_that_nobody_has_is_refused(tmp_path: Path) -> None:
    setting = json.loads(tokenizer("v3").backend_tokenizer.to_str())
    setting["model"]["vocab"] = {("▁zz" if name == "▁the" else name): number for name, number in setting["model"]["vocab"].items()}
    setting["model"]["merges"] = []
    own = fast(setting)
    with pytest.raises(TokenizerError, match=r"there is no tokenizer\.model, and mistral-common ships no vocabulary with these pieces"):
        gguf_tokenizer.write_files(own, tmp_path, tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(mistral_tokenizer.vocabulary_file("v3").read_bytes())
    with pytest.raises(TokenizerError, match=r"tokenizer\.model holds other pieces than tokenizer\.json"):
        gguf_tokenizer.write_files(own, tmp_path, tmp_path)


def test_other_kinds_of_tokenizers_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="a tokenizer of the kind WordLevel cannot be put into a GGUF file here"):
        gguf_tokenizer.write_files(family.tokenizer(), tmp_path, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_blank_after_control_tokens_is_set_as_the_tokenizer_has_it(tmp_path: Path) -> None:
    for version, blank in (("v3", False), (PREPENDED, True)):
        folder = tmp_path / version
        folder.mkdir()
        assert gguf_tokenizer.write_files(tokenizer(version), tmp_path, folder) == "llama"
        setting = files.read_json(folder / "tokenizer_config.json")
        assert setting["add_prefix_space"] is blank and setting["add_bos_token"] is True


def test_ordinary_chats_have_system_text_where_the_template_takes_it() -> None:
    assert any(one[0]["role"] == "system" for one in gguf_tokenizer.ordinary_chats(tokenizer("v3")))
    without = copy.copy(tokenizer("v3"))
    without.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}" + without.chat_template
    made = gguf_tokenizer.ordinary_chats(without)
    assert made and all(one[-1]["role"] == "user" and one[0]["role"] == "user" for one in made)
    assert all(chat_format.prompt_ids(without, one) for one in made)

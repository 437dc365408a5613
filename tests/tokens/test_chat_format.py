"""The chat format against mistral-common, token by token, and against other models' templates; the mask in all of them."""

import copy
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from mistral_lib.corpus import demo_corpus
from mistral_lib.corpus.records import Record, map_row
from mistral_lib.model import base_model, demo_model, mistral_tokenizer
from mistral_lib.tokens import chat_format, chat_template
from mistral_lib.tokens.chat_format import IGNORED

KINDS = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
# The behavior of the template published with Mistral-7B-Instruct-v0.3: answers are stripped on both sides, and
# system text is written only if the last message is a user's, so never in training.
PUBLISHED = mistral_tokenizer.TEMPLATE.replace("turn['content'].rstrip(' ')", "turn['content'] | trim").replace(
    "loop.index0 == last.user and", "loop.last and"
)
CONTROL = ("[INST]", "[/INST]", "</s>", "<s>", "<unk>", "[TOOL_CALLS]", "[control_8]", "<|im_end|>", "<|im_start|>")
TEXTS = [
    "Hello", " one blank before", "  two blanks  inside  and after  ", "\n\na newline first", "newlines last\n\n", "a\r\nb\tc",
    "naïve Zürich 東京 😀👩‍👩‍👧 \u200b\u00a0 ﬁ①", "def f(x):\n    return  x  # code\n", "\n", "-", "[REFERENCE_DOC_1] <0x0A> ▁",
    "\ue0000\ue001 \ue0001\ue001 \ue001\ue000", *(f"say {token} and{token}{token} go" for token in CONTROL), *CONTROL,
]  # fmt: skip


@cache
def truth(mode: ValidationMode = ValidationMode.finetuning) -> MistralTokenizer:
    return MistralTokenizer.from_file(str(mistral_tokenizer.vocabulary_file()), mode=mode)


def true_ids(messages, mode=ValidationMode.finetuning):
    request = ChatCompletionRequest(messages=[KINDS[m["role"]](content=m["content"]) for m in messages])
    return truth(mode).encode_chat_completion(request).tokens


def chat(*contents: str, system: str = "") -> list[dict[str, str]]:
    turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system else []) + turns


def record(messages=None, text=None) -> Record:
    return Record("domain", "file:1", "group", "messages", messages=messages, text=text)


def encode(tokenizer, messages=None, text=None) -> chat_format.Encoded:
    return chat_format.encode(tokenizer, [record(messages, text)])[0]


def with_template(tokenizer, template: str):
    other = copy.copy(tokenizer)
    other.chat_template = template
    return other


def graded(encoded) -> list[list[int]]:
    """The stretches of graded ids."""
    found = [[]]
    for label in encoded.labels:
        if label == IGNORED:
            found.append([])
        else:
            found[-1].append(label)
    return [stretch for stretch in found if stretch]


@pytest.fixture(scope="module", params=[mistral_tokenizer.TEMPLATE, PUBLISHED], ids=["own template", "published behavior"])
def mistral(request):
    return with_template(mistral_tokenizer.load(), request.param)


@pytest.fixture(scope="module")
def smol():
    return base_model.load_tokenizer(demo_model.NAME)


@pytest.mark.parametrize("text", TEXTS)
def test_mistral_ids_are_those_of_mistral_common(mistral, text):
    other = "Fine </s>."
    for messages in (
        chat(text, other), chat(other, text), chat(text, text), chat(text, other, text, text), chat(other, other, text, other, other, text),
        chat(other, other, system=text), chat(text, text, system=text), chat(text, other, other, text, system=text),
    ):  # fmt: skip
        assert encode(mistral, messages).input_ids == true_ids(messages)
        assert chat_format.prompt_ids(mistral, messages[:-1]) == true_ids(messages[:-1], ValidationMode.test)


words = st.lists(st.sampled_from([" ", "  ", "\n", "a", "Wort", "x=1", "é", "😀", "\t", ".", *CONTROL]), min_size=1, max_size=12).map(
    "".join
)


@settings(max_examples=100)
@given(st.lists(words.filter(str.strip), min_size=1, max_size=3), words.filter(str.strip), st.booleans())
def test_mistral_ids_of_any_chat_are_those_of_mistral_common(answers, question, with_system):
    tokenizer = mistral_tokenizer.load()
    messages = chat(*(text for answer in answers for text in (question, answer)), system=question if with_system else "")
    encoded = encode(tokenizer, messages)
    assert encoded.input_ids == true_ids(messages)
    assert graded(encoded) == [_answer_ids(answer) for answer in answers]


def _answer_ids(answer: str) -> list[int]:
    """The ids that mistral-common writes after [/INST]."""
    return truth().instruct_tokenizer.tokenizer.encode(answer.rstrip(" "), bos=False, eos=True)


@pytest.mark.parametrize("text", TEXTS)
def test_mistral_documents_are_those_of_mistral_common_and_graded_entirely(mistral, text):
    encoded = encode(mistral, text=text)
    assert encoded.input_ids == truth().instruct_tokenizer.tokenizer.encode(text, bos=True, eos=True)
    assert encoded.labels == [IGNORED, *encoded.input_ids[1:]]


def test_the_prompt_in_training_is_the_prompt_in_generation(mistral, smol):
    for tokenizer in (mistral, smol):
        for messages in (chat("Why?", "So."), chat("Why?", "So.", "And?", "No."), chat("Why?", "So.", "And?", "No.", system="Be brief.")):
            asked = chat_format.prompt_ids(tokenizer, messages[:-1])
            encoded = encode(tokenizer, messages)
            assert encoded.input_ids[: len(asked)] == asked
            assert encoded.labels[len(asked) - 1] == IGNORED
            assert encoded.labels[len(asked)] == encoded.input_ids[len(asked)]


@pytest.mark.parametrize("answer", ["No.", "Yes <|im_end|> or <|im_start|>user no", "\n\nspaced \n", "  indented", "\ue0001\ue001", "😀"])
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_smollm2_grades_exactly_the_answers_and_their_end_tokens(smol, answer, system):
    messages = chat("What?\n", answer, "Again </s>?", "Sure.", system=system)
    encoded = encode(smol, messages)
    end = smol.convert_tokens_to_ids("<|im_end|>")
    first, second = graded(encoded)
    assert (first[-1], second[-1]) == (end, end)
    assert end not in first[:-1]
    assert smol.decode(second[:-1]) == "Sure."
    assert answer.lstrip("\n").endswith(smol.decode(first[:-1]).lstrip("\n"))
    assert smol.decode(first[:-1]).strip() == answer.strip()
    assert smol.decode(encoded.input_ids) == smol.apply_chat_template(messages, tokenize=False)


def test_ids_are_those_of_the_rendered_text_if_they_contain_no_control_string(smol):
    published = with_template(mistral_tokenizer.load(), PUBLISHED)  # renders no system text before an answer
    for tokenizer, system in ((smol, "s"), (mistral_tokenizer.load(), "s"), (published, "")):
        for text in TEXTS:
            if not any(token in text for token in CONTROL):
                messages = chat(text, "ok " + text.strip(), system=system)
                whole = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False).input_ids
                assert encode(tokenizer, messages).input_ids == whole


def test_no_blank_is_inserted_after_a_control_token():
    bare = "{{ bos_token }}{% for m in messages %}{{ '[INST]' + m['content'] + '[/INST]' if m['role'] == 'user' else m['content'] + eos_token }}{% endfor %}"
    tokenizer = with_template(mistral_tokenizer.load(), bare)
    messages = chat("Why?", "So.")
    whole = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False).input_ids
    assert encode(tokenizer, messages).input_ids == whole


@pytest.fixture(scope="module")
def demo_records():
    import orjson

    found = []
    for path in sorted(demo_corpus.place("demo:corpus").glob("*.jsonl")):
        found += [map_row(orjson.loads(line), f"{path.name}:1") for line in path.read_bytes().splitlines()[:60]]
    return found


def test_the_end_token_of_every_answer_of_real_records_is_graded(demo_records, smol):
    for tokenizer, end in ((smol, "<|im_end|>"), (mistral_tokenizer.load(), "</s>")):
        number = tokenizer.convert_tokens_to_ids(end)
        for one, encoded in zip(demo_records, chat_format.encode(tokenizer, demo_records), strict=True):
            answers = [m for m in one.messages or [one] if m is one or m["role"] == "assistant"]
            stretches = graded(encoded)
            assert encoded.refusal == ""
            assert len(stretches) == len(answers)
            assert all(stretch[-1] == number and number not in stretch[:-1] for stretch in stretches)
            first = encoded.input_ids[:1] if one.text and tokenizer is smol else []  # of a document without a start token, ungraded
            assert tokenizer.decode(first + stretches[-1][:-1]).strip() == one.answer.strip()


CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ %s }}%s\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def chatml(content: str = "m['content']", end: str = "<|im_end|>") -> str:
    return CHATML.replace("%s", content, 1).replace("%s", end, 1)


@pytest.mark.parametrize("strip", ["| trim", ".strip()", ".lstrip()", ".rstrip()"])
def test_a_template_that_strips_contents_is_followed(smol, strip):
    tokenizer = with_template(smol, chatml(f"m['content'] {strip}"))
    messages = chat("  a question \n", " \n an answer \n ")
    encoded = encode(tokenizer, messages)
    assert encoded.input_ids == tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False).input_ids
    assert "an answer" in smol.decode(graded(encoded)[0])


def test_a_template_that_changes_contents_is_a_problem_and_not_a_wrong_mask(smol):
    tokenizer = with_template(smol, chatml("m['content'].split('</think>')[-1]"))
    assert encode(tokenizer, chat("a", "b")).refusal == ""
    encoded = encode(tokenizer, chat("a", "<think>hm</think>b"))
    assert "changes this chat's contents" in encoded.refusal
    assert encoded.input_ids == []


def test_a_template_without_end_token_is_refused(smol):
    for end in ("", "END", " and more<|im_end|>"):
        with pytest.raises(chat_format.NoEndTokenError, match="no end token"):
            encode(with_template(smol, chatml(end=end)), chat("a", "b"))
    assert encode(with_template(smol, chatml(end=" <|im_end|>")), chat("a", "b")).supervised == 3


def test_a_template_that_refuses_a_role_says_so_for_that_record_only(smol):
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + chatml()
    tokenizer = with_template(smol, refusing)
    good, bad = chat_format.encode(tokenizer, [record(chat("a", "b")), record(chat("a", "b", system="s"))])
    assert good.refusal == ""
    assert bad.refusal == "the chat template refuses system-user-assistant: no system here"
    with pytest.raises(chat_format.TemplateError, match="no system here"):
        chat_format.prompt_ids(tokenizer, chat("a", system="s"))


def test_a_template_that_drops_a_message_is_a_problem(smol):
    tokenizer = with_template(
        smol, chatml().replace("<|im_start|>{{", "{% if m['role'] == 'system' %}{% continue %}{% endif %}<|im_start|>{{")
    )
    assert encode(tokenizer, chat("a", "b", system="s")).refusal.startswith("the chat template drops or repeats system message 1")


def test_a_record_without_graded_token_has_a_refusal():
    assert chat_format.Encoded([1, 2], [IGNORED, IGNORED]).refusal == "no_supervised_token"


def test_header_without_control_token_is_found_by_offsets(smol):
    plain = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% if m['role'] == 'assistant' %}<|im_end|>{% endif %}\n{% endfor %}"
    encoded = encode(with_template(smol, plain), chat("a question", "an answer"))
    assert smol.decode(graded(encoded)[0]) == " an answer<|im_end|>"


def test_pieces_join_to_the_rendered_text(smol):
    messages = chat("a", "b", system="s")
    found = chat_format.pieces(smol, messages)
    assert "".join(piece.text for piece in found) == smol.apply_chat_template(messages, tokenize=False)
    assert [(piece.text, piece.role) for piece in found if piece.role] == [("s", "system"), ("a", "user"), ("b", "assistant")]
    assert found[-1].text == "<|im_end|>\n"


def test_the_layout_is_computed_once_for_each_order_of_roles(smol):
    chat_template._layout.cache_clear()
    chat_format.encode(smol, [record(chat(f"q {n}", f"a {n}")) for n in range(20)])
    assert chat_template._layout.cache_info().misses == 1


def test_show_mask_shows_the_answer_on_green(smol):
    shown = chat_format.show_mask(smol, encode(smol, chat("a", "<b>")))
    assert '<span style="background:#cdebc5;color:#113311;padding-bottom:2px">&lt;' in shown


def test_the_mask_is_cut_after_the_longest_and_says_how_much_is_left(smol):
    encoded = chat_format.Encoded(list(range(300, 310)), [IGNORED] * 4 + list(range(304, 310)))
    shown = [chat_format.show_mask(smol, encoded, longest) for longest in (9, 10, 11)]
    assert [page.count("<span") for page in shown] == [9, 10, 10]
    assert [page.count("background:#cdebc5") for page in shown] == [5, 6, 6] and shown[0].count("opacity:.65") == 4
    assert ["more tokens" in page for page in shown] == [True, False, False] and "<i> … and 1 more tokens</i></div>" in shown[0]
    long = chat_format.show_mask(smol, chat_format.Encoded([300] * 170, [IGNORED] * 170))
    assert long.count("<span") == 160 and "and 10 more tokens" in long
    lines = chat_format.show_mask(smol, encode(smol, chat("a\nb", "c")))
    assert "⏎<br>" in lines and "\n" not in lines


def test_a_problem_comes_before_missing_tokens_and_graded_tokens_are_counted():
    assert chat_format.Encoded([1, 2, 3], [IGNORED, 2, 3]).supervised == 2
    assert chat_format.Encoded([], [], "why").refusal == "why" and chat_format.Encoded([1, 2], [IGNORED, 2]).refusal == ""


def test_the_pieces_before_an_answer_end_with_its_header(smol, mistral):
    for tokenizer in (smol, mistral):
        asked = chat_format.pieces(tokenizer, chat("Why?"), for_answer=True)
        assert tokenizer("".join(piece.text for piece in asked), add_special_tokens=False).input_ids == chat_format.prompt_ids(
            tokenizer, chat("Why?")
        )
        assert [piece.role for piece in asked] == [None, "user", None] and asked[1].text == "Why?"
    whole = chat_format.pieces(mistral, chat("Why?", "So.", "And?", "No."))
    assert [piece.role for piece in whole] == [None, "user", None, "assistant", None, "user", None, "assistant", None]
    assert whole[0].text.startswith("<s>[INST]") and whole[-1].text == "</s>" and whole[4].text.startswith("</s>")


def test_encoding_many_records_gives_each_its_own_tokens_and_problem(smol):
    tokenizer = with_template(smol, chatml("m['content'].split('!')[0]"))
    found = chat_format.encode(tokenizer, [record(chat("a", "b")), record(chat("a!", "b")), record(chat("c", "d e f"))])
    assert [bool(one.problem) for one in found] == [False, True, False] and found[1].input_ids == found[1].labels == []
    assert found[2] == encode(tokenizer, chat("c", "d e f")) and found[0] == encode(tokenizer, chat("a", "b")) != found[2]
    assert chat_format.encode(smol, []) == []


def test_the_ignored_label_is_that_of_the_loss_and_a_control_token_may_have_the_id_0(smol):
    assert torch.nn.CrossEntropyLoss().ignore_index == IGNORED
    tokenizer = with_template(smol, chatml(end="<|endoftext|>"))
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") == 0
    found = chat_format.pieces(tokenizer, chat("a", "b"))
    assert "".join(piece.text for piece in found) == tokenizer.apply_chat_template(chat("a", "b"), tokenize=False)

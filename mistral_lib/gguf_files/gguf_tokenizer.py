"""The tokenizer in a GGUF file: the files from which llama.cpp's converter makes the right one, and the check that its ids are equal.

llama.cpp has two kinds: `llama`, SentencePiece's BPE by scores, and `gpt2`, byte-level BPE by merges. Mistral's vocabularies up to v7 are
SentencePiece, and their trap has two parts. From tokenizer.json alone the converter makes a vocabulary without scores, in which [INST] is
text; and the default puts a blank before every text that follows a control token, where mistral-common has none. So it gets
tokenizer.model, and the setting of that blank. The template in the file is the trained tokenizer's own.

A chat endpoint renders a chat to one text and then looks for control tokens in it, those in a user's words included. Training and
mistral-common encode such words as text. `differences` tells these chats apart; only token ids in place of a chat avoid it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mistral_lib.gguf_files import gguf_file, llama_cpp_tokens
from mistral_lib.gguf_files.gguf_file import GgufError
from mistral_lib.model import mistral_tokenizer
from mistral_lib.run import files, paths
from mistral_lib.run.progress import say
from mistral_lib.shapes.conversation import Message
from mistral_lib.shapes.tools import Tool
from mistral_lib.tokens import batch_encoding, chat_segments, control_tokens
from mistral_lib.tokens.chat_template import TemplateError
from mistral_lib.tokens.segment import Segment

SENTENCEPIECE, BYTE_LEVEL = "llama", "gpt2"  # as tokenizer.ggml.model names them
NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
UNKNOWN, CONTROL = 2, 3  # tokenizer.ggml.token_type
TEXTS = (  # nothing at their ends that a template may strip
    "Hello", "What is  a kernel?", "naïve Zürich – 東京 😀👩‍👩‍👧 ﬁ", "def f(x):\n    return  x  # code\n\n\t{'a': [1, 2]}", "1234.5e6 it's we're //…!!!",
)  # fmt: skip
# What llama.cpp's patterns for byte-level vocabularies leave out: combining marks, and digits of other scripts.
RARE = ("हिन्दी में लिखो", "مَرْحَبًا بِكَ", "١٢٣ ①②")


class TokenizerError(GgufError):
    """A tokenizer that a GGUF file cannot carry, or that came out differently; the message names it and the reason."""


@dataclass(frozen=True)
class Difference:
    """A chat that does not get the same token ids from a GGUF file."""

    chat: int  # its number
    way: str  # "texts": the text between two control tokens; "chat": through the file's template, as a chat endpoint does it; "ollama"
    expected: list[int]  # as the model was trained
    found: list[int]
    reason: str  # "control string": a control token's name in the chat's words; "template": refused by it; "ids": anything else

    def __str__(self) -> str:
        same = next((place for place, pair in enumerate(zip(self.expected, self.found, strict=False)) if pair[0] != pair[1]), None)
        place = min(len(self.expected), len(self.found)) if same is None else same
        return (
            f"chat {self.chat} ({self.way}, {self.reason}): token {place} of {len(self.expected)}: expected {self.expected[place : place + 6]}, "
            f"found {self.found[place : place + 6]} of {len(self.found)}"
        )


# -- the files for the converter ----------------------------------------------------------------------------------------


def write_files(tokenizer: Any, model: Path, folder: Path) -> str:
    """Write the trained tokenizer's files for the converter to `folder`; return the kind that the GGUF file will have.

    model: the folder of the model, whose tokenizer.model is taken if it is this vocabulary; else that which mistral-common ships.
    Errors: TokenizerError if llama.cpp has no such tokenizer, or if there is no tokenizer.model for it.
    """
    found = kind(tokenizer)
    setting: dict[str, Any] = {name: getattr(tokenizer, name) for name in NAMED if getattr(tokenizer, name)}
    setting |= {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": adds_start(tokenizer), "add_eos_token": False}
    if found == SENTENCEPIECE:
        source = vocabulary_file(tokenizer, model)
        (folder / "tokenizer.model").write_bytes(source.read_bytes())
        setting |= {"add_prefix_space": _blank_after_control(tokenizer), "added_tokens_decoder": _other_types(tokenizer, source)}
    files.write_json(folder / "tokenizer_config.json", setting)
    files.write_text(folder / "chat_template.jinja", tokenizer.chat_template)
    files.write_text(folder / "tokenizer.json", _plain(tokenizer))
    return found


def kind(tokenizer: Any) -> str:
    """SENTENCEPIECE or BYTE_LEVEL. Errors: TokenizerError for all other tokenizers."""
    setting = json.loads(tokenizer.backend_tokenizer.to_str())
    model = setting["model"]
    name = model.get("type") or "without a type"
    if name == "BPE" and model.get("byte_fallback"):
        return SENTENCEPIECE
    if name == "BPE" and '"ByteLevel"' in json.dumps([setting["pre_tokenizer"], setting["decoder"]]):
        return BYTE_LEVEL
    raise TokenizerError(
        f"a tokenizer of the kind {name} cannot be put into a GGUF file here: expected SentencePiece's BPE with byte fallback or byte-level BPE; "
        "serve the merged model with vLLM instead"
    )


def adds_start(tokenizer: Any) -> bool:
    """Whether the tokenizer begins every text with its start token, so that llama.cpp and Ollama have to."""
    return tokenizer.bos_token_id is not None and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]


def vocabulary_file(tokenizer: Any, model: Path) -> Path:
    """The tokenizer.model with exactly the pieces of this tokenizer: the model's own, else one that mistral-common ships.
    Errors: TokenizerError."""
    own = model / "tokenizer.model"
    vocabulary = tokenizer.get_vocab()
    if own.is_file() and _is_of(vocabulary, own):
        return own
    for version, name in mistral_tokenizer.FILES.items():
        if not name.endswith(".json") and _is_of(vocabulary, mistral_tokenizer.vocabulary_file(version)):
            return mistral_tokenizer.vocabulary_file(version)
    why = "tokenizer.model holds other pieces than tokenizer.json" if own.is_file() else "there is no tokenizer.model"
    raise TokenizerError(
        f"{paths.short(model)}: {why}, and mistral-common ships no vocabulary with these pieces; llama.cpp needs it, since tokenizer.json has "
        "no scores: download tokenizer.model from where tokenizer.json came from"
    )


@cache
def _pieces(path: Path) -> dict[str, int]:
    from sentencepiece import SentencePieceProcessor

    words = SentencePieceProcessor(model_file=str(path))
    return {words.id_to_piece(number): number for number in range(words.vocab_size())}


def _is_of(vocabulary: dict[str, int], path: Path) -> bool:
    return all(vocabulary.get(piece) == number for piece, number in _pieces(path).items())


def _blank_after_control(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a blank before a text that follows a control token: the first versions of tokenizer.json did."""
    plain = control_tokens.of(tokenizer).after_control
    return plain.encode("x", add_special_tokens=False).tokens[:1] == ["▁x"]


def _other_types(tokenizer: Any, source: Path) -> dict[str, Any]:
    """Added tokens that are not control pieces in tokenizer.model, in the form of tokenizer_config.json: without it the converter would
    take [REFERENCE_DOC_1] for an ordinary piece, and leave out tokens that were added later."""
    from sentencepiece import SentencePieceProcessor

    words = SentencePieceProcessor(model_file=str(source))
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    other = {n: t for n, t in added.items() if n >= words.vocab_size() or not (words.IsControl(n) or words.IsUnknown(n))}
    return {str(number): {"content": token.content, "special": token.special} for number, token in sorted(other.items())}


def _plain(tokenizer: Any) -> str:
    """tokenizer.json, without the padding and truncation of the last call."""
    setting = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps(setting | {"padding": None, "truncation": None}, ensure_ascii=False)


# -- the check ----------------------------------------------------------------------------------------------------------


def require_same(tokenizer: Any, gguf: Path) -> None:
    """Checks the tokenizer in a GGUF file: every token, the template, and the ids of some chats. Says so if RARE texts get other ids:
    that is a limit of llama.cpp, not a fault of the file.

    Errors: TokenizerError if anything differs from the trained tokenizer; GgufError if llama.cpp cannot load the file.
    """
    header = gguf_file.read(gguf, arrays=True)
    faults = _token_faults(tokenizer, header)
    if gguf_file.value(header, gguf_file.TEMPLATE) != tokenizer.chat_template:
        faults.append("the chat template is not the trained tokenizer's")
    differing: list[Difference] = []
    chats = ordinary_chats(tokenizer)
    if not faults:
        differing = differences(tokenizer, gguf, [*chats, *([_message("user", text)] for text in RARE)])
        faults = [str(one) for one in differing if one.chat < len(chats)]
    if faults:
        more = f" ({len(faults)} such differences)" if len(faults) > 1 else ""
        raise TokenizerError(f"{paths.short(gguf)}: its tokenizer is not that of the model: {faults[0]}{more}; the file is not kept")
    if differing:
        rare = ", ".join(RARE[number - len(chats)] for number in sorted({one.chat for one in differing}))
        say(f"llama.cpp splits rare characters in another way than this tokenizer: texts such as {rare} get other token ids, unless they are "
            "sent as token ids")  # fmt: skip


def _token_faults(tokenizer: Any, header: Any) -> list[str]:
    """Tokens with another text, and control tokens that the file holds as text."""
    texts, types = (gguf_file.value(header, key) or [] for key in (gguf_file.TOKENS, gguf_file.TOKEN_TYPES))
    control = control_tokens.of(tokenizer).ids.values()
    faults = []
    for text, number in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1]):
        if number >= len(texts) or texts[number] != text:
            faults.append(f"token {number} is {texts[number] if number < len(texts) else 'missing'!r}, expected {text!r}")
        elif number in control and types[number] not in (CONTROL, UNKNOWN):
            faults.append(f"{text!r} is no control token in it")
    return faults


def ordinary_chats(tokenizer: Any) -> list[list[Message]]:
    """Chats that end with a user's message, of TEXTS: one turn and several, with system text if the template takes it."""
    one = [[_message("user", text)] for text in TEXTS]
    turns = [_message(("user", "assistant")[place % 2], text) for place, text in enumerate(TEXTS)]
    chats = [*one, turns]
    with_system = [_message("system", TEXTS[1]), *turns]
    try:
        chat_segments.segments(tokenizer, with_system, for_answer=True)
    except TemplateError:
        return chats
    return [*chats, [_message("system", TEXTS[1]), *one[2]], with_system]


def _message(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def differences(tokenizer: Any, gguf: Path, chats: Sequence[Sequence[Message]], tools: Sequence[Tool] | None = None) -> list[Difference]:
    """The chats that get other token ids from a GGUF file, through llama.cpp, than in training. Empty: all are equal.

    chats: complete ones, or such that end with a user's message. Two ways are compared: the texts between control tokens of the complete
    chat, and its prompt through the template in the file. A chat that the trained format cannot express is left out. tools: of every chat.
    Errors: GgufError if llama.cpp cannot load the file.
    """
    complete = [_segments(tokenizer, chat, tools, not _is_answer(chat[-1])) for chat in chats]
    prompts = [chat[:-1] if _is_answer(chat[-1]) else chat for chat in chats]
    asked = [_segments(tokenizer, prompt, tools, True) for prompt in prompts]
    texts = list(dict.fromkeys(one.text for segments in complete for one in segments if one.control < 0))
    shown = [{"messages": [_sent(one) for one in prompt], **({"tools": list(tools)} if tools else {})} for prompt in prompts]
    answers = llama_cpp_tokens.of_gguf(gguf, texts, shown)
    ids_of = dict(zip(texts, answers.texts, strict=True))
    found = []
    for number, (segments, prompt) in enumerate(zip(complete, asked, strict=True)):
        by_text = [token for one in segments for token in ([one.control] if one.control >= 0 else ids_of[one.text])]
        if segments and by_text != (expected := _ids(tokenizer, segments)):
            found.append(Difference(number, "texts", expected, by_text, "ids"))
        ids = answers.chats[number]
        if prompt and ids != (expected := _ids(tokenizer, prompt)):
            reason = "control string" if holds_control_string(tokenizer, prompts[number]) else "template" if isinstance(ids, str) else "ids"
            found.append(Difference(number, "chat", expected, [] if isinstance(ids, str) else ids, reason))
    return found


def holds_control_string(tokenizer: Any, chat: Sequence[Message]) -> bool:
    """Whether the words of a chat hold the name of a control token, such as </s>."""
    return any(name in message["content"] for message in chat for name in control_tokens.of(tokenizer).ids)


def _is_answer(message: Message) -> bool:
    return message["role"] == "assistant"


def _segments(tokenizer: Any, chat: Sequence[Message], tools: Sequence[Tool] | None, for_answer: bool) -> list[Segment]:
    """Empty if the trained format cannot express the chat."""
    try:
        return chat_segments.segments(tokenizer, chat, for_answer, tools) if chat else []
    except TemplateError:
        return []


def _ids(tokenizer: Any, segments: Sequence[Segment]) -> list[int]:
    return batch_encoding.token_ids(tokenizer, segments)[0].tolist()


def _sent(message: Message) -> dict[str, Any]:
    """A message as a client sends it."""
    return {key: value for key, value in message.items() if key != "graded"}

"""Base model folders with the faults of real downloads: refused before loading, with the file's name and what to do."""

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mistral_lib.model import base_model, model_folder, safetensors_files
from mistral_lib.model.base_model import BaseModelError
from mistral_lib.run import params


@pytest.fixture(scope="module")
def sharded(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in three shards with an index."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("models") / "sharded"
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(folder, max_shard_size="200KB")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) >= 3
    return folder


@pytest.fixture
def copy(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "model"))


def edit(path: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def refused(folder: Path) -> str:
    with pytest.raises(BaseModelError) as caught:
        base_model.folder(str(folder))
    return str(caught.value)


def second_shard(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[1]


def truncate(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def gzip_in_place(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes()))


def longer_tokenizer(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda t: t["added_tokens"].append({**t["added_tokens"][0], "id": 50_000, "content": "<|far|>"}))


def shorter_tokenizer(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda t: t["model"].update(vocab={k: v for k, v in t["model"]["vocab"].items() if v < 32_768}))


FAULTS = {
    "missing shard": (lambda f: second_shard(f).unlink(), r"model-00002-of-0000\d\.safetensors: missing \(model\.safetensors\.index\.json names it\); download"),
    "truncated shard": (lambda f: truncate(second_shard(f), 0.6), r"model-00002-of-0000\d\.safetensors: is cut short: it has [\d,]+ bytes, its header requires [\d,]+; download it again"),
    "shard cut in its header": (lambda f: os.truncate(second_shard(f), 20), r"model-00002.*header should have [\d,]+ bytes, the file has 20; download"),
    "shard with a tail": (lambda f: second_shard(f).open("ab").write(b"x" * 9), r"model-00002.*is too long"),
    "git-lfs pointer": (lambda f: second_shard(f).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"), r"model-00002.*git-lfs pointer of 64 bytes.*git lfs pull"),
    "empty shard": (lambda f: second_shard(f).write_bytes(b""), r"model-00002.*is empty"),
    "shard of another download": (lambda f: shutil.copy(sorted(f.glob("model-*"))[2], second_shard(f)), r"model-00002.*holds no model\..*tensors are missing that model\.safetensors\.index\.json lists"),
    "gzip'ed config": (lambda f: gzip_in_place(f / "config.json"), r"config\.json: is compressed with gzip \(it begins with 1f 8b\); unpack it: gzip -dc config\.json"),
    "gzip'ed tokenizer": (lambda f: gzip_in_place(f / "tokenizer.json"), r"tokenizer\.json: is compressed with gzip.*gzip -dc tokenizer\.json"),
    "gzip'ed index": (lambda f: gzip_in_place(f / "model.safetensors.index.json"), r"model\.safetensors\.index\.json: is compressed with gzip"),
    "web page": (lambda f: (f / "config.json").write_text("<!doctype html><html>Sign in</html>"), r"config\.json: holds a web page"),
    "half a config": (lambda f: truncate(f / "config.json", 0.5), r"config\.json: is not valid JSON"),
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json: missing"),
    "no causal language model": (lambda f: edit(f / "config.json", lambda c: c.update(architectures=["BertForMaskedLM"])), r"config\.json: architectures = \['BertForMaskedLM'\]: expected a causal language model"),
    "already quantized": (lambda f: edit(f / "config.json", lambda c: c.update(quantization_config={"quant_method": "gptq", "bits": 4})), r"config\.json: the model is already quantized \(gptq\).*use the model from which this one was made"),
    "config of another model": (lambda f: edit(f / "config.json", lambda c: c.update(vocab_size=32_000)), r"config\.json: vocab_size = 32000, but model\.embed_tokens\.weight has 49,152 rows"),
    "tokenizer with more ids": (longer_tokenizer, r"tokenizer\.json: token '<\|far\|>' has id 50,000, but model\.embed_tokens\.weight has 49,152 rows; the tokenizer belongs to another model"),
    "tokenizer of a smaller model": (shorter_tokenizer, r"tokenizer\.json: 32,768 tokens for the 49,152 rows.*the tokenizer belongs to another model"),
    "end token of another model": (lambda f: edit(f / "tokenizer_config.json", lambda c: c.update(eos_token="<|eot_id|>")), r"tokenizer_config\.json: eos_token is '<\|eot_id\|>', which tokenizer\.json does not have"),
    "tokenizer.model alone": (lambda f: (f / "tokenizer.json").rename(f / "tokenizer.model"), r"tokenizer\.json: missing; a tokenizer\.model alone loses the space"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_folder_is_refused_with_its_file_and_what_to_do(copy: Path, fault: str) -> None:
    damage, expected = FAULTS[fault]
    damage(copy)
    assert re.search(expected, refused(copy)), refused(copy)


def test_all_faults_are_reported_at_once(copy: Path) -> None:
    second_shard(copy).unlink()
    gzip_in_place(copy / "tokenizer.json")
    edit(copy / "config.json", lambda c: c.update(quantization_config={"quant_method": "awq"}))
    assert len(refused(copy).splitlines()) == 4


def test_complete_folders_are_accepted(sharded: Path, tiny_model: str) -> None:
    assert base_model.folder(str(sharded)) == sharded and base_model.folder(tiny_model) == Path(tiny_model)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"adapter_config.json": '{"base_model_name_or_path": "mistralai/Mistral-7B-v0.3"}'},
            "holds an adapter.*mistralai/Mistral-7B-v0.3",
        ),
        ({"model.gguf": "GGUF"}, "GGUF files are for serving"),
        ({"params.json": "{}", "consolidated.safetensors": ""}, "Mistral's own layout"),
        ({"config.json": "{}", "pytorch_model.bin": "PK"}, "pytorch_model.bin: pickled weights"),
    ],
)
def test_a_folder_of_another_kind_is_recognized(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(BaseModelError, match=expected):
        model_folder.check(tmp_path)


def test_a_chat_template_of_another_model_is_refused(copy: Path) -> None:
    template = "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>{% endfor %}"
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(
        BaseModelError, match=r"it writes <\|start_header_id\|>, <\|end_header_id\|>, <\|eot_id\|>, which tokenizer\.json does not have"
    ):
        base_model.load_tokenizer(str(copy))


def test_missing_tensors_are_refused(copy: Path, settings: params.Settings) -> None:
    """An index from which tensors were dropped: transformers fills them with random numbers and only warns."""
    from safetensors.torch import load_file, save_file

    shard = next(p for p in sorted(copy.glob("model-*")) if any("mlp" in name for name in safetensors_files.header(p)))
    kept = load_file(shard)
    gone = next(name for name in kept if "mlp" in name)
    save_file({name: tensor for name, tensor in kept.items() if name != gone}, shard, metadata={"format": "pt"})
    edit(copy / safetensors_files.INDEX, lambda index: index["weight_map"].pop(gone))
    with pytest.raises(BaseModelError, match=rf"its weights hold no {gone} \(1 tensors are missing"):
        base_model.load_base(settings.model_copy(update={"base_model": str(copy)}))


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\xff" * 64, b"\x02" + b"\0" * 7 + b"[]"])
def test_a_stray_file_that_is_no_safetensors_file_is_part_of_the_fingerprint(copy: Path, content: bytes) -> None:
    """Mistral's own repositories have such a file besides the shards: a pointer of git-lfs if it was not downloaded."""
    before = base_model.fingerprint(str(copy))
    (copy / "consolidated.safetensors").write_bytes(content)
    with_it = base_model.fingerprint(str(copy))
    (copy / "consolidated.safetensors").write_bytes(content + b"more")
    assert len({before, with_it, base_model.fingerprint(str(copy))}) == 3


def test_the_fingerprint_changes_with_weights_of_the_same_size_and_not_with_time(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    before = base_model.fingerprint(str(copy))
    os.utime(second_shard(copy), (0, 0))
    assert base_model.fingerprint(str(copy)) == before
    size = second_shard(copy).stat().st_size
    tensors = load_file(second_shard(copy))
    save_file(
        {name: tensor + torch.finfo(tensor.dtype).eps for name, tensor in tensors.items()}, second_shard(copy), metadata={"format": "pt"}
    )
    assert second_shard(copy).stat().st_size == size and base_model.fingerprint(str(copy)) != before

"""The merge equals peft's, holds at most two shards in memory, and survives a kill and a full disk."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mistral_lib.merging import merged_weights, shard_folder
from mistral_lib.merging.adapter_tensors import MergeError
from mistral_lib.model import base_model, model_folder
from mistral_lib.model.base_model import BaseModelError
from mistral_lib.run import disk, files, sealed
from tests.support import disks, family, sharded_model
from tests.support.corpora import short_run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four layers in three shards, bfloat16."""
    return sharded_model.save(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharded_model.adapter(tmp_path_factory.mktemp("adapter") / "adapter", base)


def load(folder: Path, **options: Any) -> Any:
    """The language model of a folder, strictly: no tensor may be missing or left over, but for those of a vision tower."""
    from transformers import AutoModelForCausalLM

    options = {"dtype": "auto", **model_folder.loading_options(folder), **options}
    model, loaded = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    base_model.require_all_weights(folder.name, loaded)
    assert not [name for name in loaded["unexpected_keys"] if "vision" not in name and "projector" not in name]
    assert not loaded["mismatched_keys"]
    return model.eval()


def merged_by_peft(base: Path, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(load(base), str(adapter)).merge_and_unload()


def assert_same(found: Any, expected: Any) -> None:
    """Tensor by tensor, bit by bit."""
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if tensor.dtype != found[name].dtype or not torch.equal(tensor, found[name])] == []


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 43)[None]).logits  # (1, 40 tokens, vocabulary)


def test_the_merge_equals_that_of_peft_bit_by_bit(base: Path, adapter: Path, tmp_path: Path) -> None:
    figures = merged_weights.merge(base, adapter, tmp_path / "new" / "merged", "16bit")
    assert_same(load(tmp_path / "new" / "merged"), merged_by_peft(base, adapter))
    assert not torch.equal(logits(load(tmp_path / "new" / "merged")), logits(load(base))), "the adapter changes something"
    size = sum(path.stat().st_size for path in (tmp_path / "new" / "merged").glob("*.safetensors"))
    expected = {"tensors": 39, "merged_tensors": 28, "shards": 3, "reused_shards": 0, "bytes": size, "into": "16bit"}
    assert figures == {**expected, "seconds": figures["seconds"], "peak_memory_mib": figures["peak_memory_mib"]}
    assert figures["seconds"] > 0 and figures["peak_memory_mib"] > 100


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_dtype_of_the_files_is_kept(base: Path, adapter: Path, tmp_path: Path, dtype: str) -> None:
    load(base, dtype=getattr(torch, dtype)).save_pretrained(tmp_path / "base")
    family.tokenizer().save_pretrained(tmp_path / "base")
    merged_weights.merge(tmp_path / "base", adapter, tmp_path / "merged", "16bit")
    model = load(tmp_path / "merged")
    assert files.read_json(tmp_path / "merged" / "config.json")["dtype"] == dtype and model.dtype == getattr(torch, dtype)
    assert (tmp_path / "merged" / "model.safetensors").exists() and not (tmp_path / "merged" / "model.safetensors.index.json").exists()
    assert_same(model, merged_by_peft(tmp_path / "base", adapter))


@pytest.mark.parametrize(("quantization", "into"), [("none", "16bit"), ("nf4", "nf4")])
def test_the_merged_model_answers_as_the_adapter_that_was_evaluated(base: Path, home: Path, quantization: str, into: str) -> None:
    """On a base model in float32, in which the merged weights lose nothing."""
    load(base, dtype=torch.float32).save_pretrained(home / "base")
    family.tokenizer().save_pretrained(home / "base")
    settings = short_run(base_model=str(home / "base"), quantization=quantization, dtype="float32", lora_rank=4)
    trained = sharded_model.trained_adapter(settings, home / "training")
    merged_weights.merge(home / "base", trained, home / "merged", into)
    with_adapter, found = logits(base_model.load_adapter(settings, trained)), logits(load(home / "merged"))
    effect = (with_adapter - logits(base_model.load_base(settings))).abs().max()
    assert (found - with_adapter).abs().max() < 1e-4 * effect


def test_the_folder_is_a_complete_model_and_nothing_else_of_the_base_model_is_copied(base: Path, adapter: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(base, tmp_path / "base")
    config = {**files.read_json(copy / "config.json"), "_name_or_path": "/somebody/here"}
    files.write_json(copy / "config.json", config)
    for name in ("generation_config.json", "params.json", "fetched.json"):
        files.write_json(copy / name, {"top_p": 0.9})
    shutil.copyfile(copy / "model-00001-of-00003.safetensors", copy / "consolidated.safetensors")
    for name in ("pytorch_model.bin", "model.gguf", "tokenizer.model", "LICENSE", "README.md"):
        files.write_text(copy / name, name)
    (copy / "tokenizer_backups").mkdir()
    merged_weights.merge(copy, adapter, tmp_path / "merged", "16bit")
    model_folder.check(tmp_path / "merged")
    shards = {f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)}
    tokenizer = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.model"}
    others = {"config.json", "generation_config.json", "model.safetensors.index.json", "LICENSE", "merge.json", "complete.json"}
    assert {path.name for path in (tmp_path / "merged").iterdir()} == shards | tokenizer | others
    assert sealed.is_complete(tmp_path / "merged")
    written = files.read_json(tmp_path / "merged" / "config.json")
    assert written == {key: value for key, value in config.items() if key != "_name_or_path"} | {"dtype": "bfloat16"}
    index = files.read_json(tmp_path / "merged" / "model.safetensors.index.json")
    assert index["weight_map"] == files.read_json(base / "model.safetensors.index.json")["weight_map"]


MULTIMODAL = {kind: row for kind, row in family.kinds().items() if row.multimodal}


def text_adapter(base: Path, folder: Path, targets: Any = "all-linear") -> Path:
    """An adapter of random numbers on the language model of a folder, made by peft."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(load(base), config).save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.mark.parametrize("into", ["16bit", "nf4"])
@pytest.mark.parametrize("kind", MULTIMODAL)
def test_of_a_multimodal_model_the_language_layers_are_merged_and_the_rest_is_copied(kind: str, into: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    family.save(MULTIMODAL[kind], tmp_path / "base")
    adapter = text_adapter(tmp_path / "base", tmp_path / "adapter")
    merged_weights.merge(tmp_path / "base", adapter, tmp_path / "merged", into)
    if into == "16bit":
        assert_same(load(tmp_path / "merged"), merged_by_peft(tmp_path / "base", adapter))
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    assert before.keys() == after.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {name for name in before if "language_model" in name and "_proj." in name}


@pytest.mark.parametrize("into", ["16bit", "nf4"])
@pytest.mark.parametrize("kind", ["text", "text with head in the file", *(kind for kind in MULTIMODAL if kind.endswith("-tied"))])
def test_a_head_that_the_adapter_changes_is_no_longer_tied_to_the_embedding(kind: str, into: str, tmp_path: Path) -> None:
    """peft's own merge adds the head's product to the embedding as well, so here the model with the adapter is the reference."""
    from peft import PeftModel

    place = tmp_path / "base"
    if kind.startswith("text"):
        sharded_model.save(place, tied=kind == "text")
        files.write_json(place / "config.json", {**files.read_json(place / "config.json"), "tie_word_embeddings": kind == "text"})
    else:
        family.save(MULTIMODAL[kind], place)
    adapter = text_adapter(place, tmp_path / "adapter", ["lm_head", "q_proj"])
    figures = merged_weights.merge(place, adapter, tmp_path / "merged", into)
    assert figures["merged_tensors"] == 5
    found = load(tmp_path / "merged", dtype=torch.float32)
    assert not found.config.tie_word_embeddings
    assert torch.equal(found.get_input_embeddings().weight, load(place, dtype=torch.float32).get_input_embeddings().weight)
    if into == "16bit":
        expected = logits(PeftModel.from_pretrained(load(place, dtype=torch.float32), str(adapter)).eval())
        assert (logits(found) - expected).abs().max() < 0.02 * expected.abs().max(), "bfloat16 has 8 bits"


MEMORY = """
import json, sys
from pathlib import Path
from safetensors.torch import load_file
from mistral_lib.merging import merged_weights
from tests.support.resident_memory import peak_rise

place = Path(sys.argv[1])
for into in ("16bit", "nf4"):  # so that libraries and thread pools are there
    merged_weights.merge(place / "small", place / "small_adapter", place / f"small_{into}", into)
rises = {}
for into in ("16bit", "nf4"):
    rises[into] = peak_rise(lambda: merged_weights.merge(place / f"base_{into}", place / f"adapter_{into}", place / into, into))
tensors = {}
def everything():
    for path in sorted((place / "base_16bit").glob("*.safetensors")):
        tensors.update(load_file(path))
    sum(tensor.view(-1)[::1024].float().sum().item() for tensor in tensors.values())  # touches each page of the mapped files
rises["everything"] = peak_rise(everything)
print(json.dumps(rises))
"""


def measured_rises(place: Path, hidden: int, layers: dict[str, int], layers_per_shard: int) -> tuple[dict[str, int], list[int]]:
    """Peak rise of resident memory in bytes by kind of merge, and of loading all shards; and the sizes of the shards.

    layers: by kind of merge, since quantizing takes long.
    """
    sharded_model.adapter(place / "small_adapter", sharded_model.save(place / "small", hidden=64))
    for into, number in layers.items():
        base = sharded_model.save(place / f"base_{into}", hidden, number, layers_per_shard, sparse=True)
        sharded_model.adapter(place / f"adapter_{into}", base, rank=16)
    done = subprocess.run([sys.executable, "-c", MEMORY, str(place)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), [path.stat().st_size for path in (place / "base_16bit").glob("*.safetensors")]


def assert_within_two_shards(rises: dict[str, int], shards: list[int]) -> None:
    assert rises["everything"] > 0.9 * sum(shards), "the measurement sees mapped files"
    assert 0 < rises["16bit"] <= 2 * max(shards) and 0 < rises["nf4"] <= 2 * max(shards), (rises, max(shards))


def test_merging_takes_the_memory_of_two_shards_at_most(tmp_path: Path) -> None:
    rises, shards = measured_rises(tmp_path, hidden=384, layers={"16bit": 32, "nf4": 12}, layers_per_shard=4)
    assert len(shards) == 9 and sum(shards) > 7 * max(shards), "holding all shards, or three, would fail"
    assert_within_two_shards(rises, shards)


@pytest.mark.long
def test_merging_tensors_of_the_size_of_mistral_7b_takes_two_shards_at_most(tmp_path: Path) -> None:
    rises, shards = measured_rises(tmp_path, hidden=4096, layers={"16bit": 8, "nf4": 6}, layers_per_shard=2)
    assert max(shards) > 800 * disk.MIB
    assert_within_two_shards(rises, shards)


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from mistral_lib.merging import merged_weights, shard_folder

base, adapter, target, into, moment = sys.argv[1:]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if moment.isdigit():  # in the middle of a shard: when this many tensors are written
    merged, count = merged_weights.merged, itertools.count()
    merged_weights.merged = lambda *args: die() if next(count) == int(moment) else merged(*args)
else:
    setattr(shard_folder.ShardFolder if moment == "publish" else merged_weights, moment, die)
merged_weights.merge(Path(base), Path(adapter), Path(target), into)
"""


def killed(base: Path, adapter: Path, target: Path, into: str, moment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, (base, adapter, target, into, moment))], stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("into", "moment", "finished"),
    [("16bit", "10", 0), ("nf4", "27", 1), ("16bit", "publish", 3)],
)
def test_a_killed_merge_leaves_no_model_and_resumes(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture, into: str, moment: str, finished: int
) -> None:
    killed(base, adapter, tmp_path / "merged", into, moment)
    assert [path.name for path in tmp_path.iterdir()] == [".merged.partial"]
    assert len(list((tmp_path / ".merged.partial").glob("*.safetensors"))) == finished
    assert merged_weights.merge(base, adapter, tmp_path / "merged", into)["reused_shards"] == finished
    assert ("resuming" in capsys.readouterr().err) == (finished > 0)
    merged_weights.merge(base, adapter, tmp_path / "undisturbed", into)
    assert contents(tmp_path / "merged") == contents(tmp_path / "undisturbed")
    assert {path.name for path in tmp_path.iterdir()} == {"merged", "undisturbed"}


def interrupted(base: Path, adapter: Path, target: Path, monkeypatch: pytest.MonkeyPatch, into: str = "16bit") -> None:
    """A merge that ends when its shards are finished."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(merged_weights, "write_small_files", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        merged_weights.merge(base, adapter, target, into)


def altered(base: Path, adapter: Path, partial: Path) -> dict[str, Any]:
    shard = partial / "model-00002-of-00003.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    return {}


def other_adapter(base: Path, adapter: Path, partial: Path) -> dict[str, Any]:
    other = shutil.copytree(adapter, partial.parent / "other_adapter")
    config = files.read_json(other / "adapter_config.json")
    files.write_json(other / "adapter_config.json", {**config, "lora_alpha": 1})
    return {"adapter": other}


def other_base(base: Path, adapter: Path, partial: Path) -> dict[str, Any]:
    other = shutil.copytree(base, partial.parent / "other_base")
    with open(other / "model-00003-of-00003.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    return {"base": other}


def no_journal(base: Path, adapter: Path, partial: Path) -> dict[str, Any]:
    (partial / "merge.json").write_text('{"made_from": ')  # as after a power cut
    return {}


@pytest.mark.parametrize(
    ("change", "reused"),
    [(altered, 2), (other_adapter, 0), (other_base, 0), (no_journal, 0), (lambda *_: {"into": "nf4"}, 0), (lambda *_: {}, 3)],
)
def test_only_unaltered_shards_of_the_same_merge_are_used_again(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[..., dict[str, Any]], reused: int
) -> None:
    interrupted(base, adapter, tmp_path / "merged", monkeypatch)
    inputs = {"base": base, "adapter": adapter, "into": "16bit", **change(base, adapter, tmp_path / ".merged.partial")}
    assert merged_weights.merge(target=tmp_path / "merged", **inputs)["reused_shards"] == reused
    merged_weights.merge(target=tmp_path / "undisturbed", **inputs)
    assert contents(tmp_path / "merged") == contents(tmp_path / "undisturbed")


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A real file system of 24 MiB below the home."""
    with disks.mounted(home / "runs", 24) as place:
        yield place


def at_tensor(number: int, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do some work once, before this tensor is merged."""
    merged, count = merged_weights.merged, iter(range(10**6))

    def watched(*args: Any) -> Iterator[Any]:
        if next(count) == number:
            work()
        return merged(*args)

    monkeypatch.setattr(merged_weights, "merged", watched)


def test_a_disk_without_room_is_reported_before_anything_is_written(small_disk: Path, base: Path, adapter: Path) -> None:
    disks.fill(small_disk, 17 * disk.MIB)
    expected = (
        r"no room on disk for the merged model: 18 MiB are needed, 17 MiB are free at runs/\.merged\.partial\. Free at least 1 MiB, or set"
    )
    with pytest.raises(disk.DiskFullError, match=expected):
        merged_weights.merge(base, adapter, small_disk / "merged", "16bit")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


@pytest.mark.parametrize(("tensor", "finished"), [(5, 0), (25, 1)])
def test_a_disk_that_fills_while_a_shard_is_written_keeps_the_finished_ones(
    small_disk: Path, base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch, tensor: int, finished: int
) -> None:
    at_tensor(tensor, lambda: disks.fill(small_disk, 0), monkeypatch)
    kept = r" 1 of 3 shards are finished and kept in runs/\.merged\.partial\." if finished else ""
    with pytest.raises(
        disk.DiskFullError, match=rf"for the merged model: 1[78] MiB are needed, \d+ MiB are free at [^ ]+{kept} Free at least"
    ):
        merged_weights.merge(base, adapter, small_disk / "merged", "16bit")
    partial = {path.name for path in small_disk.glob(".merged.partial/*")}
    assert partial == ({"model-00001-of-00003.safetensors", "merge.json"} if finished else set()) and not (small_disk / "merged").exists()
    (small_disk / "filler").unlink()
    assert merged_weights.merge(base, adapter, small_disk / "merged", "16bit")["reused_shards"] == finished
    assert_same(load(small_disk / "merged"), merged_by_peft(base, adapter))


def test_what_cannot_be_merged_is_refused_before_anything_is_written(base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="into = '8bit': expected '16bit' or 'nf4'"):
        merged_weights.merge(base, adapter, tmp_path / "merged", "8bit")
    with pytest.raises(BaseModelError, match=r"config\.json: missing"):
        merged_weights.merge(adapter, adapter, tmp_path / "merged", "16bit")
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="there: exists already; move or delete it"):
        merged_weights.merge(base, adapter, tmp_path / "there", "16bit")
    smaller = sharded_model.save(tmp_path / "smaller", layers=3)
    with pytest.raises(MergeError, match=r"(?s)layers\.3\..*lora_A\.weight: the base model has no weight model\.layers\.3"):
        merged_weights.merge(smaller, adapter, tmp_path / "merged", "16bit")
    assert {path.name for path in tmp_path.iterdir()} == {"there", "smaller"}


def test_a_merged_weight_that_is_not_finite_is_refused(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = sharded_model.adapter(tmp_path / "adapter", base)
    tensors = load_file(broken / "adapter_model.safetensors")
    tensors["base_model.model.model.layers.2.mlp.up_proj.lora_B.weight"][0, 0] = float("nan")
    save_file(tensors, broken / "adapter_model.safetensors")
    with pytest.raises(MergeError, match=r"model\.layers\.2\.mlp\.up_proj\.weight: the merged weight holds NaN or infinity in bfloat16"):
        merged_weights.merge(base, broken, tmp_path / "merged", "16bit")
    assert not (tmp_path / "merged").exists()


def test_the_journal_names_no_path(base: Path, adapter: Path, tmp_path: Path) -> None:
    merged_weights.merge(base, adapter, tmp_path / "merged", "16bit")
    journal = (tmp_path / "merged" / shard_folder.JOURNAL).read_text()
    assert not re.search(r"/\w", journal) and files.sha256(adapter / "adapter_model.safetensors") in journal

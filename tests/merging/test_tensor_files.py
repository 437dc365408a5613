"""Files that are read and written tensor by tensor are those of the safetensors library."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mistral_lib.merging.tensor_files import HashedFile, TensorFile, encoded_header, in_order, tensor_bytes
from mistral_lib.model.safetensors_files import DamagedFileError

TENSORS = {
    "b": torch.arange(12, dtype=torch.float32).view(3, 4), "a": torch.arange(6).bfloat16().view(2, 3), "half": torch.ones(5).half(),
    "odd": torch.arange(3, dtype=torch.uint8), "none": torch.zeros(0, 4),
}  # fmt: skip


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "saved.safetensors")
    return tmp_path / "saved.safetensors"


def test_each_tensor_is_read_and_written_as_it_is(saved: Path) -> None:
    copy = saved.with_name("copy.safetensors")
    with TensorFile(saved) as source, open(copy, "wb") as file:
        facts = [(name, source.header[name]) for name in in_order(source.header)]
        new = HashedFile(file)
        sizes = {name: fact["data_offsets"][1] - fact["data_offsets"][0] for name, fact in facts}
        new.write(encoded_header((name, fact["dtype"], fact["shape"], sizes[name]) for name, fact in facts))
        for name, _ in facts:
            pieces = list(source.chunks(name, size=5))
            assert b"".join(pieces) == TENSORS[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes() and all(map(len, pieces))
            new.write(b"".join(pieces))
        for name in ("a", "b", "half"):
            assert torch.equal(source.tensor(name), TENSORS[name]) and tensor_bytes(TENSORS[name]) == b"".join(source.chunks(name))
    loaded = load_file(copy)
    assert loaded.keys() == TENSORS.keys() and all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    assert new.fact() == {"sha256": hashlib.sha256(copy.read_bytes()).hexdigest(), "bytes": copy.stat().st_size}


@pytest.mark.parametrize("length", range(9))
def test_the_data_begin_at_a_multiple_of_eight_bytes(length: int) -> None:
    assert len(encoded_header([("x" * length, "F32", [1], 4)])) % 8 == 0


def test_a_tensor_that_is_not_contiguous_is_written_in_its_own_order() -> None:
    assert bytes(tensor_bytes(TENSORS["b"].T)) == TENSORS["b"].T.contiguous().numpy().tobytes()


def test_a_dtype_that_is_not_computed_in_is_refused(saved: Path) -> None:
    with TensorFile(saved) as file, pytest.raises(ValueError, match=r"saved\.safetensors: odd is U8; expected one of F32, F16, BF16"):
        file.tensor("odd")


def test_a_file_that_is_cut_is_refused(saved: Path) -> None:
    with TensorFile(saved) as file:
        with open(saved, "r+b") as other:
            other.truncate(saved.stat().st_size - 20)
        with pytest.raises(DamagedFileError, match=r"saved\.safetensors: ends within \w+, although its header is complete"):
            [list(file.chunks(name)) for name in file.header]
    with pytest.raises(DamagedFileError, match="is cut short"):
        TensorFile(saved)

"""Rows in parallel: loss and gradients are those of the complete batch with any number of threads; an error leaves no thread running."""

import multiprocessing
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from datasets import load_from_disk

from mistral_lib.kernels import row_threads
from mistral_lib.model import base_model, likelihood
from mistral_lib.run import Run
from mistral_lib.run.settings import Settings


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def adapted(tiny_model: str, **options: object) -> torch.nn.Module:
    settings = Settings(base_model=tiny_model, dtype="float32", **options)
    torch.manual_seed(0)
    model = base_model.attach_lora(base_model.load_base(settings), settings)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model


def columns(run: Run, count: int) -> dict[str, torch.Tensor]:
    rows = load_from_disk(run.folder / "data" / "train")[:count]
    return {name: torch.tensor(rows[name]) for name in likelihood.COLUMNS}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_those_of_the_complete_batch(prepared: Run, tiny_model: str, threads: int, checkpointing: bool) -> None:
    model = adapted(tiny_model, quantization="none").train()
    if checkpointing:
        model.activation_checkpointing_enable()
    batch = columns(prepared, 5)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    expected = likelihood.token_losses(model, batch)[0]
    expected_slopes = torch.autograd.grad(expected.square().sum(), weights)
    pieces = row_threads.parts(batch)
    assert [len(piece["labels"]) for piece in pieces] == {1: [5], 2: [2, 3], 3: [1, 2, 2]}[threads]
    losses = likelihood.training_losses(model, batch)
    slopes = torch.autograd.grad(losses.square().sum(), weights)
    assert torch.allclose(losses, expected, rtol=1e-5, atol=1e-6)
    for found, wanted in zip(slopes, expected_slopes, strict=True):
        assert (found - wanted).norm() <= 1e-4 * wanted.norm()
    assert torch.get_num_threads() == threads, "the caller's number of threads is unchanged"


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_measuring_gives_the_same_records_in_the_same_order(prepared: Run, tiny_model: str, threads: int, quantization: str) -> None:
    model = adapted(tiny_model, quantization=quantization)
    blocks = load_from_disk(prepared.folder / "data" / "train").select(range(5))
    alone = [loss for block in range(5) for loss in likelihood.batch_losses(model, blocks[block : block + 1])]
    together = likelihood.batch_losses(model, blocks[:])
    paired = likelihood.paired_batch_losses(model, blocks[:])["adapter"]
    for one, other, third in zip(alone, together, paired, strict=True):
        assert one.record_id == other.record_id == third.record_id and one.tokens == other.tokens
        assert one.nats == pytest.approx(other.nats, rel=1e-4) == pytest.approx(third.nats, rel=1e-4)


def test_a_batch_is_not_divided_if_the_model_has_dropout(prepared: Run, tiny_model: str, threads: int) -> None:
    def parts_of(dropout: float) -> list[int]:
        model, seen = adapted(tiny_model, quantization="none", lora_dropout=dropout), []

        def work(part: dict[str, torch.Tensor]) -> torch.Tensor:
            seen.append(len(part["labels"]))
            return likelihood.token_losses(model, part)[0]

        assert len(model.compute_rows(work, columns(prepared, 4))) == 1
        return sorted(seen)

    assert parts_of(0.1) == [4]
    assert parts_of(0.0) == {1: [4], 2: [2, 2], 3: [1, 1, 2]}[threads]


def test_an_error_is_raised_after_all_threads_have_ended() -> None:
    ended = threading.Event()

    def work(name: str) -> None:
        if name == "broken":
            raise MemoryError("no room")
        time.sleep(0.2)
        ended.set()

    with pytest.raises(MemoryError, match="no room"):
        row_threads.side_by_side(work, ["broken", "slow"])
    assert ended.is_set()


def test_a_forked_process_starts_its_own_threads() -> None:
    assert row_threads.side_by_side(str.upper, ["a", "b"]) == ["A", "B"]
    process = multiprocessing.get_context("fork").Process(target=row_threads.side_by_side, args=(str.upper, ["a", "b"]))
    process.start()
    process.join(timeout=30)
    alive = process.is_alive()
    process.kill()
    assert not alive and process.exitcode == 0


def test_the_threads_are_divided_among_the_parts() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert row_threads.side_by_side(lambda _: torch.get_num_threads(), ["a", "b"]) == [2, 2]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)

"""How fast is measuring the likelihood, against the plain way: one record at a time, all logits? Figures are printed.

RECORDS=200 python -m pytest -s tests/benchmarks/test_evaluation_speed.py     the demo's model, 4-bit, and its test split
"""

import os
import time

import pytest
import torch
from datasets import load_from_disk

from mistral_lib import base_model, likelihood, preparation
from mistral_lib.chat_format import IGNORED
from mistral_lib.run import Run
from mistral_lib.settings import Settings
from tests.test_evaluation import separate

RECORDS = int(os.environ.get("RECORDS", "48"))


def plain(model: torch.nn.Module, ids: list[int], labels: list[int]) -> float:
    """Summed nats of one record, the way a short script does it."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=IGNORED, reduction="sum").item()


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_likelihood_against_a_plain_loop(quantization: str, capsys: pytest.CaptureFixture) -> None:
    run = Run.open(Settings(run_name="benchmark_evaluation"))
    preparation.prepare(run)
    model = base_model.load_base(Settings(quantization=quantization)).eval()
    blocks = load_from_disk(run.folder / "data" / "test")
    spent, records, seen = {"plain": 0.0, "packed": 0.0}, 0, []
    likelihood.batch_losses(model, blocks[:1])  # both warm
    for start in range(0, len(blocks), 2):  # interleaved: what else the machine does hits both
        part = blocks.select(range(start, min(start + 2, len(blocks))))
        began = time.perf_counter()
        packed = likelihood.batch_losses(model, part[:])
        spent["packed"] += time.perf_counter() - began
        began = time.perf_counter()
        alone = [plain(model, ids, labels) for _, ids, labels in separate(part)]
        spent["plain"] += time.perf_counter() - began
        seen += [(one.nats, two) for one, two in zip(packed, alone, strict=True)]
        records += len(alone)
        if records >= RECORDS:
            break
    total = abs(sum(one for one, _ in seen) / sum(two for _, two in seen) - 1)
    with capsys.disabled():
        print(f"\n{quantization}: {records} windows, plain loop {spent['plain']:.1f} s, packed {spent['packed']:.1f} s: "
              f"{spent['plain'] / spent['packed']:.1f} times as fast; sums differ by {total:.1e} relative")  # fmt: skip
    assert total < 1e-2, "bfloat16 and other shapes: the sums must still agree"

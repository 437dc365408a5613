"""Speed of measuring base and adapter, compared with a short script: model(**record, labels=...) per record, adapter off and on.

RECORDS=200 python -m pytest -s tests/benchmarks/test_evaluation_speed.py     the demo's model and corpus, an adapter that is not zero

The script's model is plain transformers, peft and bitsandbytes. On a CPU with AVX512-BF16, bitsandbytes by itself uses a
kernel for single tokens; `nf4, unpacked` is the same script with our faster workaround.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_from_disk

from mistral_lib.model import base_model, likelihood
from mistral_lib.preparation import prepare
from mistral_lib.run import Run, allocator, hardware
from mistral_lib.run.settings import Settings
from mistral_lib.tokens.chat_format import IGNORED
from tests.evaluation.test_evaluate import separate
from tests.support.corpora import short_run

RECORDS = int(os.environ.get("RECORDS", "48"))
BLOCKS = 2  # per batch, as in the demo


def script(settings: Settings, adapter: Path, unpacked: bool) -> Any:
    """The model as a short script loads it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, hardware.choose_dtype(settings.dtype)[0])
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    options = {"quantization_config": nf4} if settings.quantization == "nf4" else {}
    model = AutoModelForCausalLM.from_pretrained(base_model.folder(settings.base_model), dtype=dtype, **options)
    if unpacked:
        base_model.disable_cpu_repacking(model)
    return PeftModel.from_pretrained(model, str(adapter)).eval()


def plain(model: Any, ids: list[int], labels: list[int]) -> tuple[float, float]:
    """Summed nats of one record, base and adapter."""
    batch = {"input_ids": torch.tensor([ids]), "labels": torch.tensor([labels])}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    graded = sum(label != IGNORED for label in labels[1:])
    with torch.inference_mode():
        with model.disable_adapter():
            base = model(**batch).loss.item() * graded
        return base, model(**batch).loss.item() * graded


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def ours(model: Any, blocks: Any) -> list[tuple[float, float]]:
    found = likelihood.paired_batch_losses(model, blocks[:])
    return [(one.nats, two.nats) for one, two in zip(found["base"], found["adapter"], strict=True)]


@pytest.mark.parametrize(("quantization", "unpacked"), [("nf4", False), ("nf4", True), ("none", False)])
def test_measuring_against_a_plain_loop(quantization: str, unpacked: bool, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = short_run(run_name="benchmark_evaluation", quantization=quantization)
    run = Run.open(settings.model_copy(update={"quantization": "nf4"}))
    prepare.prepare(run)
    made = base_model.attach_lora(base_model.load_base(settings), settings)
    torch.manual_seed(0)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.005)
    made.save_pretrained(tmp_path)
    rival, model = script(settings, tmp_path, unpacked), base_model.load_adapter(settings, tmp_path)
    blocks, ratios, seen = load_from_disk(run.folder / "data" / "test"), [], []
    for start in range(0, len(blocks), BLOCKS):  # interleaved: other load on the machine affects both
        part = blocks.select(range(start, min(start + BLOCKS, len(blocks))))
        with allocator.keep_freed_memory():  # as in the evaluation
            packed_seconds, packed = timed(lambda part=part: ours(model, part))
        plain_seconds, alone = timed(lambda part=part: [plain(rival, ids, labels) for _, ids, labels in separate(part)])
        ratios += [plain_seconds / packed_seconds] if start else []  # the first batch warms up both
        seen += [(one, two) for one, two in zip(packed, alone, strict=True)]
        if len(seen) >= RECORDS:
            break
    sums = torch.tensor(seen, dtype=torch.float64).sum(0)  # (ours or plain, base or adapter)
    apart = (sums[0] / sums[1] - 1).abs()
    with capsys.disabled():
        print(f"\n{quantization}{', unpacked' if unpacked else ''}: {len(seen)} windows; {statistics.median(ratios):.1f} times as fast (median of {len(ratios)} "
              f"batches, {min(ratios):.1f} to {max(ratios):.1f}); sums differ by {apart[0]:.1e} (base) and {apart[1]:.1e} (adapter) relative")  # fmt: skip
    assert apart.max() < 1e-3

"""Answers of the evaluation: a long batch says how far it is, and on a CPU no weight is unpacked for each token."""

import pytest
import torch

from mistral_lib.evaluation import evaluate, generation
from mistral_lib.evaluation.evaluate import Evaluation
from mistral_lib.model import base_model
from mistral_lib.run import Run
from mistral_lib.run.settings import Settings


def test_a_batch_that_takes_long_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    seconds = iter([0.0, 10.0, 61.0, 61.0, 100.0])
    monkeypatch.setattr(generation.time, "monotonic", lambda: next(seconds))
    criterion = generation.Reporter(prompt_tokens=30, most=256)
    for tokens in (31, 90, 120):
        assert not criterion(torch.zeros(4, tokens, dtype=torch.long), None).any(), "it never stops an answer"
    assert capsys.readouterr().err.splitlines() == ["answers: 60 of at most 256 tokens of 4 answers are written"]


def test_on_a_cpu_the_weights_are_unpacked_once(prepared: Run, tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(base_model=tiny_model, dtype="float32", quantization="nf4")
    packed = base_model.attach_lora(base_model.load_base(settings), settings)
    linear = packed.get_base_model().model.layers[0].mlp.up_proj.base_layer
    assert linear.weight.quant_state is not None
    monkeypatch.setattr(evaluate.base_model, "load_adapter", lambda *_: packed)
    loaded = Evaluation(prepared, prepared.folder, None).model
    plain = loaded.get_base_model().model.layers[0].mlp.up_proj.base_layer
    assert getattr(plain.weight, "quant_state", None) is None and plain.weight.shape == (linear.out_features, linear.in_features)

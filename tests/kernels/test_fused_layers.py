"""The fused layers and the loss in chunks give the results of the plain ones: losses, and every gradient."""

import pytest
import torch
from datasets import load_from_disk
from torch.nn import functional
from transformers import set_seed

from mistral_lib.kernels import fused_layers, fused_loss, liger, paired_layers
from mistral_lib.model import base_model, likelihood
from mistral_lib.run import Run
from mistral_lib.run.settings import Settings
from mistral_lib.tokens.chat_format import IGNORED
from tests.kernels import stand_ins


def batch_of(run: Run) -> dict[str, torch.Tensor]:
    blocks = load_from_disk(run.folder / "data" / "train").select(range(2))
    return {name: torch.tensor(blocks[:][name]) for name in likelihood.COLUMNS}


def adapted(settings: Settings) -> torch.nn.Module:
    """A model whose adapter is not zero, so that every matrix has a gradient."""
    model = base_model.load_base(settings)
    set_seed(0)
    model = base_model.attach_lora(model, settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.train()


def plain_losses(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """transformers' and peft's own layers, all logits at once."""
    for module in model.modules():
        if hasattr(module, "plain_forward"):
            module.forward, module.fused_forward = module.plain_forward, module.forward
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits.float()
    for module in model.modules():
        if hasattr(module, "plain_forward"):
            module.forward = module.fused_forward
    losses = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses[batch["labels"][:, 1:].flatten() != IGNORED]


def outcome(model: torch.nn.Module, losses: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    losses.mean().backward()
    return losses.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("dtype", "quantization", "checkpointing", "tolerance"),
    [("float32", "none", False, 1e-4), ("float32", "none", True, 1e-4), ("float32", "nf4", False, 1e-4), ("bfloat16", "nf4", False, 4e-2)],
)
def test_fused_layers_give_the_plain_losses_and_gradients(
    prepared: Run, tiny_model: str, dtype: str, quantization: str, checkpointing: bool, tolerance: float
) -> None:
    model = adapted(Settings(base_model=tiny_model, dtype=dtype, quantization=quantization))
    batch = batch_of(prepared)
    expected, expected_gradients = outcome(model, plain_losses(model, batch))
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    losses, gradients = outcome(model, likelihood.token_losses(model, batch)[0])
    assert torch.allclose(losses, expected, rtol=tolerance, atol=tolerance)
    assert len(gradients) == len(expected_gradients) == 2 * 2 * 7, "two layers, seven projections, two matrices"
    for name, gradient in expected_gradients.items():
        assert (gradients[name] - gradient).norm() < tolerance * gradient.norm(), name


def test_without_its_adapter_the_model_is_the_base_model(prepared: Run, tiny_model: str) -> None:
    settings = Settings(base_model=tiny_model, dtype="float32", quantization="none")
    model, batch = adapted(settings).eval(), batch_of(prepared)
    with torch.no_grad():
        expected = likelihood.token_losses(base_model.load_base(settings), batch)[0]
        with model.disable_adapter():
            without = likelihood.token_losses(model, batch)[0]
        assert torch.allclose(without, expected, rtol=1e-5)
        assert not torch.allclose(likelihood.token_losses(model, batch)[0], expected, rtol=1e-3)


@pytest.mark.parametrize(("dtype", "quantization"), [("float32", "none"), ("bfloat16", "nf4")])
def test_one_pass_gives_the_losses_of_base_and_adapter_that_two_passes_give(
    prepared: Run, tiny_model: str, dtype: str, quantization: str
) -> None:
    model = adapted(Settings(base_model=tiny_model, dtype=dtype, quantization=quantization)).eval()
    rows = load_from_disk(prepared.folder / "data" / "train")[:3]
    both = likelihood.paired_batch_losses(model, rows)
    assert paired_layers.can_pair(model) and [one.nats for one in both["base"]] != [two.nats for two in both["adapter"]]
    for who in both:
        for found, alone in zip(both[who], likelihood.batch_losses(model, rows, without_adapter=who == "base"), strict=True):
            assert (found.record_id, found.tokens) == (alone.record_id, alone.tokens)
            assert found.nats == pytest.approx(alone.nats, rel=1e-5 if dtype == "float32" else 2e-2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    nothing = likelihood.paired_batch_losses(model, rows)
    assert nothing["base"] == nothing["adapter"] == both["base"], "equal to the last bit"


def test_an_adapter_of_another_kind_is_measured_in_two_passes(prepared: Run, tiny_model: str) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = get_peft_model(base_model.load_base(Settings(base_model=tiny_model, dtype="float32", quantization="none")), config)
    torch.nn.init.normal_(model.base_model.model.lm_head.modules_to_save["default"].weight)
    assert not paired_layers.can_pair(model)
    both = likelihood.paired_batch_losses(model, load_from_disk(prepared.folder / "data" / "train")[:1])
    assert [one.nats for one in both["base"]] != [two.nats for two in both["adapter"]]


def test_dropout_is_applied_in_training_only(prepared: Run, tiny_model: str) -> None:
    model = adapted(Settings(base_model=tiny_model, dtype="float32", quantization="none", lora_dropout=0.5))
    batch = batch_of(prepared)
    first, second = (likelihood.token_losses(model, batch)[0] for _ in range(2))
    assert not torch.allclose(first, second)
    model.eval()
    assert torch.equal(*(likelihood.token_losses(model, batch)[0] for _ in range(2)))


def test_the_loss_is_the_same_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50, bias=False).requires_grad_(False)
    hidden, targets, weights = torch.randn(23, 16, requires_grad=True), torch.randint(50, (23,)), torch.rand(23)
    expected = functional.cross_entropy(head(hidden), targets, reduction="none")
    (expected_slope,) = torch.autograd.grad((expected * weights).sum(), hidden)
    for elements in (50, 50 * 5, 50 * 100):
        monkeypatch.setattr(fused_loss, "LOGITS_AT_ONCE", elements)
        losses = fused_loss.head_losses(hidden, head, targets)
        (slope,) = torch.autograd.grad((losses * weights).sum(), hidden)
        assert torch.allclose(losses, expected, atol=1e-6) and torch.allclose(slope, expected_slope, atol=1e-6)
    for tile in ((23, 50), (4, 7), (1, 1), (100, 64)):  # (tokens, vocabulary) of a tile, used if no gradient is needed
        monkeypatch.setattr(fused_loss, "TILE", tile)
        assert torch.allclose(fused_loss.head_losses(hidden.detach(), head, targets), expected, atol=1e-6)


def test_a_head_that_is_trained_gets_its_gradient() -> None:
    torch.manual_seed(0)
    head, hidden, targets = torch.nn.Linear(16, 50, bias=False), torch.randn(23, 16), torch.randint(50, (23,))
    fused_loss.head_losses(hidden, head, targets).sum().backward()
    found, head.weight.grad = head.weight.grad, None
    functional.cross_entropy(head(hidden), targets, reduction="sum").backward()
    assert torch.allclose(found, head.weight.grad, atol=1e-5)


@pytest.mark.parametrize(("rows", "calls"), [(1, 1), (64, 1), (65, 0)])
def test_a_few_rows_take_the_four_bit_product(tiny_model: str, monkeypatch: pytest.MonkeyPatch, rows: int, calls: int) -> None:
    """Unpacking every weight for one token is most of the time of an answer on a GPU."""
    import bitsandbytes as bnb

    settings = Settings(base_model=tiny_model, dtype="float32", quantization="nf4")
    linear = adapted(settings).get_base_model().model.layers[0].mlp.up_proj.base_layer
    x, real, made = torch.randn(rows, linear.in_features), bnb.matmul_4bit, []
    monkeypatch.setattr(bnb, "matmul_4bit", lambda *arguments: made.append(1) or real(*arguments))
    found = fused_layers.product(x, linear)
    assert len(made) == calls and torch.allclose(found, x @ fused_layers.weight_of(linear).T, atol=1e-4)


def test_with_liger_kernel_the_losses_and_gradients_are_the_same(prepared: Run, tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions through stand-ins with the same arguments: they are Triton code, which a CPU does not run."""
    model, batch = adapted(Settings(base_model=tiny_model, dtype="float32", quantization="none")), batch_of(prepared)
    expected, expected_gradients = outcome(model, likelihood.token_losses(model, batch)[0])
    used: list[str] = []
    stand_ins.put_liger_in_place(monkeypatch, used)
    monkeypatch.setattr(liger, "runs_on", lambda x: True)
    losses, gradients = outcome(model, likelihood.token_losses(model, batch)[0])
    assert {name: used.count(name) for name in set(used)} == {"norm": 5, "rope": 2, "gate": 2}, "two layers and the last norm"
    assert torch.allclose(losses, expected, atol=1e-4)
    for name, gradient in expected_gradients.items():
        assert (gradients[name] - gradient).norm() < 1e-4 * gradient.norm(), name


@pytest.mark.parametrize(
    ("capability", "installed", "why"),
    [((7, 5), True, "compute capability 7.5, expected 8.0"), ((8, 6), False, "is not installed: pip install"), ((8, 6), True, "")],
)
def test_liger_kernel_is_taken_on_newer_gpus_if_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, capability: tuple, installed: bool, why: str
) -> None:
    liger.why_not.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(liger, "find_spec", lambda name: name if installed else None)
    assert (why in liger.why_not(0)) and bool(liger.why_not(0)) == bool(why)
    liger.why_not.cache_clear()
    assert not liger.runs_on(torch.zeros(1))

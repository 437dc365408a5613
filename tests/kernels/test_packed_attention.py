"""Attention by record: every way gives what separate records give, and the way is chosen by the device, with a reason."""

import pytest
import torch
from torch.nn import functional
from transformers import MistralConfig, MistralForCausalLM

from mistral_lib.kernels import cuda_attention, installation, packed_attention
from mistral_lib.model import likelihood
from tests.kernels import stand_ins

CPU = torch.device("cpu")
LENGTHS = [[512], [300, 5, 7, 200], [1, 255, 128, 128], [3] * 170 + [2]]
WAYS = ["by record", "variable length", "memory-efficient"]


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> dict[str, packed_attention.Way]:
    """Every way by record; the kernels of a GPU through stand-ins with the same arguments."""
    monkeypatch.setattr(cuda_attention, "_flash", stand_ins.varlen_attn)
    monkeypatch.setattr(cuda_attention, "_efficient", stand_ins.efficient)
    monkeypatch.setattr(cuda_attention, "_efficient_backward", stand_ins.efficient_backward)
    found = [packed_attention.choose(CPU, torch.float32), *(packed_attention.by_capability(c, torch.float16) for c in ((8, 6), (7, 5)))]
    assert [way.name for way in found] == WAYS
    return {way.name: way for way in found}


def model_of(**changes: object) -> MistralForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 32,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return MistralForCausalLM(MistralConfig(**{**sizes, "head_dim": 16, **changes}))  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_records_attend_to_themselves_alone(ways: dict, name: str, lengths: list[int]) -> None:
    """Against PyTorch's attention within each record: a record of many tiles, several in a tile, one that ends with its tile."""
    torch.manual_seed(0)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    query, key, value = (torch.randn(512, heads, 16, requires_grad=True) for heads in (4, 2, 2))
    upstream = torch.randn(512, 4, 16)
    own = ways[name].attend(query, key, value, ways[name].spans(positions, torch.float32), 0.3)
    found = torch.autograd.grad(own, (query, key, value), upstream)
    alone = [
        functional.scaled_dot_product_attention(*(x.transpose(0, 1) for x in record), is_causal=True, scale=0.3, enable_gqa=True)
        for record in zip(*(x.split(lengths) for x in (query, key, value)), strict=True)
    ]
    expected = torch.cat([record.transpose(0, 1) for record in alone])
    assert torch.allclose(own, expected, atol=1e-5)
    for gradient, wanted in zip(found, torch.autograd.grad(expected, (query, key, value), upstream), strict=True):
        assert torch.allclose(gradient, wanted, atol=1e-4)


@pytest.mark.parametrize("name", [*WAYS, "masked"])
def test_a_packed_block_gives_the_losses_of_separate_records(ways: dict, name: str) -> None:
    """Two rows, the second one of three records and padding: with every way the losses of each record by itself."""
    way = ways.get(name) or packed_attention.masked("for this test")
    model = installation.install_for(model_of(), way, "cuda").eval()
    assert hasattr(model.model, "packed_forward") == (name != "masked")
    lengths = [[40], [9, 1, 20, 10]]
    ids = torch.randint(1, 32, (2, 40), generator=torch.Generator().manual_seed(1))
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in lengths])
    labels = ids.masked_fill(positions == 0, -100)
    with torch.inference_mode():
        packed, supervised = likelihood.token_losses(model, {"input_ids": ids, "labels": labels, "position_ids": positions})
        plain, expected = model_of().eval(), []
        for row, sizes in zip(ids, lengths, strict=True):
            for record in row.split(sizes):
                logits = plain(record[None]).logits[0, :-1]
                expected.append(functional.cross_entropy(logits, record[1:], reduction="none"))
    assert int(supervised.sum()) == 75 and torch.allclose(packed, torch.cat(expected), atol=1e-4)


@pytest.mark.parametrize(
    ("capability", "dtype", "name", "reason"),
    [
        ((8, 6), torch.bfloat16, "variable length", "compute capability 8.6: flash attention by record"),
        ((9, 0), torch.float16, "variable length", "compute capability 9.0"),
        ((8, 0), torch.float32, "memory-efficient", "flash attention takes only sixteen-bit numbers"),
        ((7, 5), torch.float16, "memory-efficient", "compute capability 7.5: flash attention needs 8.0; keys and values are repeated"),
    ],
)
def test_the_way_of_a_gpu_is_chosen_by_its_capability(capability: tuple, dtype: torch.dtype, name: str, reason: str) -> None:
    found = packed_attention.by_capability(capability, dtype)
    assert found.name == name and reason in found.reason


def test_a_way_that_does_not_run_or_is_wrong_leaves_the_masked_one(ways: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    right = ways["variable length"]
    assert packed_attention.tried(right, CPU, torch.float32) is right
    monkeypatch.setattr(cuda_attention, "_flash", lambda query, *_, **__: query * 2)
    found = packed_attention.tried(right, CPU, torch.float32)
    assert found.attend is None and found.name == "masked" and "is off by" in found.reason
    monkeypatch.undo()
    found = packed_attention.tried(packed_attention.by_capability((7, 5), torch.float16), CPU, torch.float32)
    assert found.name == "masked" and "does not run here (NotImplementedError" in found.reason, "a CPU does not have this kernel"
    assert packed_attention.choose(torch.device("meta"), torch.float32).name == "masked"


def test_a_sliding_window_shorter_than_a_block_is_obeyed(ways: dict) -> None:
    """No way by record knows windows: such a block takes transformers' masks, which do."""
    ids = torch.randint(1, 32, (1, 40), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "labels": ids.clone(), "position_ids": torch.arange(40)[None]}
    batch["labels"][0, 0] = -100
    losses = {}
    for window in (8, 40, None):
        for name in ("by record", "masked"):
            way = ways.get(name) or packed_attention.masked("for this test")
            model = installation.install_for(model_of(sliding_window=window), way, "cuda").eval()
            with torch.inference_mode():
                losses[window, name] = likelihood.token_losses(model, batch)[0]
        assert torch.allclose(losses[window, "by record"], losses[window, "masked"], atol=1e-4), window
    assert not torch.allclose(losses[8, "masked"], losses[None, "masked"], atol=1e-2)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_only_a_model_on_a_cpu_gets_the_kernels_for_cpus(device: str) -> None:
    with torch.device(device):
        model = installation.install(model_of())
    assert hasattr(model.model.layers[0].mlp, "plain_forward"), "the fused layers are used on every device"
    attention = model.model.layers[0].self_attn
    found = hasattr(model, "compute_rows"), hasattr(model.model, "packed_forward"), hasattr(attention, "plain_forward")
    assert found == (device == "cpu",) * 3
    assert installation.described(model)["attention"] == ("by record" if device == "cpu" else "masked")

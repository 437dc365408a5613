"""What is `auto`: the fastest way that leaves the reserve free, chosen once for a training, and the phases that bound it."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from mistral_lib.model import base_model, likelihood, step_memory
from mistral_lib.model.step_memory import GIB, MIB, Step
from mistral_lib.run import Run, params, paths, system_memory
from mistral_lib.run.settings import FITTED, Settings
from mistral_lib.training import fit_plan, out_of_memory, plan_table, train, training_log, training_status, workload
from tests.support.corpora import other
from tests.support.disturbed_training import at_forward, events, log_of

ALL_AUTO = dict.fromkeys(FITTED, "auto")
MISTRAL = "mistralai/Mistral-7B-Instruct-v0.3"


def fitted(settings: Settings) -> tuple[Any, ...]:
    return tuple(getattr(settings, name) for name in FITTED)


@pytest.mark.parametrize(("file", "instance"), [("g4dn", "g4dn.xlarge"), ("g5", "g5.xlarge"), ("g5", "g6.xlarge")])
def test_the_choice_for_each_gpu_leaves_the_reserve_and_keeps_the_tokens_of_a_step(file: str, instance: str) -> None:
    settings = params.load(paths.params() / f"{file}_mistral_7b.yaml", [f"instance={instance}"])
    assert settings.open_choices() == list(FITTED) and settings.lora_dropout == 0
    work = workload.work_of(settings, tokens=2_000_000)
    fit = fit_plan.as_set(settings, work)
    assert fit.leaves_reserve and fit.reserve >= max(GIB, 0.1 * fit.available) - 1 and fit.peak + fit.reserve <= fit.available
    assert workload.effective_batch(settings) * settings.max_tokens == 16_384
    assert fit.settings.micro_batch_size * fit.settings.gradient_accumulation_steps == settings.blocks_per_step
    assert fitted(fit.settings) == fitted(fit_plan.best(settings, work, instance).settings) == fitted(fit_plan.resolved(settings, work))
    fixed = {"micro_batch_size": 1, "gradient_accumulation_steps": settings.blocks_per_step, "activation_checkpointing": True}
    habit = fit_plan.as_set(settings.model_copy(update=fixed), work)
    assert sum(fit.seconds) < 0.95 * sum(habit.seconds) and fit_plan.resolved(habit.settings, work) is habit.settings
    assert {fit_plan.STEP, fit_plan.EVALUATION, fit_plan.ANSWERS} <= set(fit.phases)
    shown = plan_table.phases(fit)
    assert (
        all(name in shown for name in fit.phases)
        and "1 GiB" not in fit.advice
        and "counted as 0" in shown
        and "13.5 GiB for the base" in shown
    )


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the memory, in bytes, of a card named `small` with bfloat16."""

    def has(size: float) -> None:
        machine = {**real["g5.xlarge"], "usable_gib": size / GIB}
        monkeypatch.setattr(params, "instances", lambda: {"small": machine, "cpu": real["cpu"]})

    real = params.instances()
    return has


@pytest.fixture(scope="module")
def deep_model(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model with twelve layers, so that recomputing every second one keeps clearly less than none and more than all."""
    from transformers import MistralConfig, MistralForCausalLM

    folder = tmp_path_factory.mktemp("models") / "deep"
    config = MistralConfig.from_pretrained(tiny_model)
    config.num_hidden_layers = 12
    MistralForCausalLM(config).save_pretrained(folder)
    base_model.load_tokenizer(tiny_model).save_pretrained(folder)
    return str(folder)


def small(tiny_model: str, **changes: Any) -> Settings:
    return Settings(
        base_model=tiny_model, instance="small", max_tokens=512, blocks_per_step=4, quantization="none", sample_count=0, **changes
    )


@pytest.mark.long
def test_auto_is_the_fastest_of_all_ways_that_leave_the_reserve(deep_model: str, card: Callable[[float], None]) -> None:
    settings = small(deep_model, **ALL_AUTO)
    card(100 * GIB)
    work = workload.work_of(settings, tokens=1_000_000)
    every = [fit_plan.as_set(way, work) for way in fit_plan.ways(settings)]
    assert len(every) == 3 * len(fit_plan.CHECKPOINTING)
    peaks = sorted({fit.peak for fit in every})
    assert len(peaks) >= 5
    for room in (peaks[0], *(sum(pair) // 2 for pair in itertools.pairwise(peaks[::3])), peaks[-1]):
        card(room + GIB + MIB / 1024)
        fit = fit_plan.as_set(settings, work)
        allowed = [one for one in every if one.peak <= room]
        assert fit.reserve == GIB and fit.peak <= room and sum(fit.seconds) == pytest.approx(min(sum(one.seconds) for one in allowed))
    card(peaks[0] + GIB - MIB)
    least = fit_plan.as_set(settings, work)
    assert least.fits and not least.leaves_reserve and fitted(least.settings) == (1, 4, True), "the way with the least memory"


def test_what_is_set_stays_as_it_is_set(tiny_model: str, card: Callable[[float], None]) -> None:
    card(100 * GIB)
    auto = small(tiny_model, **ALL_AUTO)
    work = workload.work_of(auto, tokens=1_000_000)
    assert fitted(fit_plan.resolved(auto, work)) == (4, 1, False)
    assert fitted(fit_plan.resolved(small(tiny_model, micro_batch_size=2, gradient_accumulation_steps="auto"), work)) == (2, 2, False)
    assert fitted(fit_plan.resolved(small(tiny_model, micro_batch_size="auto", gradient_accumulation_steps=4), work)) == (1, 4, False)
    assert fitted(fit_plan.resolved(small(tiny_model, micro_batch_size=3, activation_checkpointing="auto"), work)) == (3, 4, False)
    assert fitted(fit_plan.resolved(auto.model_copy(update={"activation_checkpointing": 2}), work)) == (4, 1, 2)


def test_what_others_hold_on_the_card_is_not_there(tiny_model: str, card: Callable[[float], None], monkeypatch: pytest.MonkeyPatch) -> None:
    card(10 * GIB)
    settings = small(tiny_model)
    work = workload.work_of(settings, tokens=1_000_000)
    alone = fit_plan.as_set(settings, work, here=True)
    assert (alone.available, alone.others) == (10 * GIB, None), "there is no CUDA device"
    asked = []
    monkeypatch.setattr(system_memory, "left_on_card", lambda kind="": asked.append(kind) or 4 * GIB)
    shared = fit_plan.as_set(settings, work, here=True)
    assert shared.available == 4 * GIB + fit_plan.CUDA_CONTEXT and shared.others == 10 * GIB - shared.available
    assert shared.reserve == alone.reserve and "measured now" in plan_table.phases(shared)
    fit_plan.as_set(settings, work)
    assert asked == ["", "A10G"], "the training's own card whatever its name; for a plan only a card of that kind"
    monkeypatch.setattr(system_memory, "left_on_card", lambda kind="": 40 * GIB)
    assert fit_plan.as_set(settings, work, here=True).available == 10 * GIB


def test_recomputing_fewer_layers_is_faster_and_takes_more_memory(tiny_model: str) -> None:
    settings = Settings(base_model=MISTRAL, instance="g5.xlarge", max_tokens=1024)
    machine, work = params.instances()["g5.xlarge"], workload.work_of(settings, tokens=1_000_000)

    def seconds(**changes: Any) -> tuple[float, float]:
        return workload.seconds(settings.model_copy(update=changes), work, machine)

    levels = [seconds(activation_checkpointing=level) for level in fit_plan.CHECKPOINTING]
    assert all(less < more for less, more in itertools.pairwise(levels)), "none, every 4th, 3rd, 2nd, all"
    assert seconds(activation_checkpointing=1) == levels[-1]
    sizes = [seconds(micro_batch_size=size, gradient_accumulation_steps=8 // size) for size in (8, 4, 2, 1)]
    assert all(less < more for less, more in itertools.pairwise(sizes))
    either = seconds(**ALL_AUTO, blocks_per_step=8)
    slowest = seconds(micro_batch_size=1, gradient_accumulation_steps=8, activation_checkpointing=True)
    assert either == (sizes[0][0], slowest[1]), "between the fastest and the slowest"
    config = fit_plan.model_shapes.config_of(MISTRAL)
    assert [workload.training_passes(config, level) for level in (False, 4, 2, True)] == [2, 2.25, 2.5, 3]
    step = Step(tiny_model, 128, 2, False, quantization="none", dtype="float32", device="cpu", layers=12)
    peaks = [step_memory.peak(replace(step, checkpointing=level)).total for level in fit_plan.CHECKPOINTING]
    assert peaks == sorted(set(peaks), reverse=True)


@pytest.mark.parametrize(("checkpointing", "accumulates"), [(False, True), (2, True), (3, False), (True, False)])
def test_few_layers_give_the_peak_of_many(tiny_model: str, checkpointing: bool | int, accumulates: bool) -> None:
    step = Step(tiny_model, 64, 2, checkpointing, accumulates=accumulates, layers=13)
    assert step_memory.peak(step) == step_memory._peak_of(step_memory.run_step, step)
    plain = replace(step, checkpointing=False)
    measured = replace(step_memory._without_training(plain), autocast=False)
    assert step_memory.evaluation_peak(plain) == step_memory._peak_of(step_memory.run_evaluation, measured)


def test_the_phases_count_keys_and_values_paired_rows_and_every_score_without_a_kernel(tiny_model: str) -> None:
    step = Step(tiny_model, 256, 2, False)
    answers = step_memory.generation_peak(step, rows=4, prompt_tokens=16, new_tokens=1024)
    assert answers.parts["keys and values"] >= 2 * 2 * 2 * 4 * 2 * 16 * (16 + 1024 - 1), (
        "bytes x (k, v) x layers x rows x heads x size x tokens"
    )
    assert answers.parts["optimizer"] == answers.parts["gradients"] == 0
    one, two = (step_memory.evaluation_peak(replace(step, micro_batch_size=size)) for size in (1, 2))
    assert two.parts["activations"] > 1.5 * one.parts["activations"] and two.total < step_memory.peak(step).total
    t4 = replace(step, compute_capability=(7, 5), one_record=True, attention="sdpa")
    scores = 2 * 4 * 256 * 256 * 4  # rows x heads x tokens x tokens x bytes of float32
    assert step_memory.peak(t4).total - step_memory.peak(replace(t4, compute_capability=(8, 0))).total > 2 * scores, (
        "two layers keep theirs"
    )
    masked = step_memory.peak(replace(t4, one_record=False)).total
    assert masked == step_memory.peak(replace(step, attention="sdpa")).total, "with a mask, keys and values are repeated"
    own = step_memory.peak(replace(t4, attention=step_memory.OWN)).total
    assert own <= masked - 256 * 256 * 2 and own < step_memory.peak(t4).total, "attention by record has neither mask nor scores"


def test_the_download_counts_only_for_a_model_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tiny_model: str) -> None:
    settings = Settings(base_model=MISTRAL)
    monkeypatch.setattr(base_model, "has_weights", lambda name: True)
    here = workload.beyond_training(settings)
    monkeypatch.setattr(base_model, "has_weights", lambda name: False)
    away, size = workload.beyond_training(settings), 14.496e9
    assert [b - a for a, b in zip(here, away, strict=True)] == pytest.approx([size / 0.4e9, size / 0.05e9], rel=0.01)
    assert here == pytest.approx((size / 1e9, size / 0.1e9), rel=0.01), "the third load"
    monkeypatch.undo()
    assert base_model.has_weights(tiny_model) and base_model.has_weights("demo:smollm2-135m-instruct")
    assert not base_model.has_weights("nobody/nothing") and not base_model.has_weights("./nowhere")


# -- in a training ----------------------------------------------------------------------------------------------------------


def test_every_nth_layer_recomputed_gives_the_same_loss_and_gradients(tiny_model: str) -> None:
    settings = Settings(base_model=tiny_model, quantization="none", dtype="float32")
    torch.manual_seed(0)
    model = base_model.attach_lora(base_model.load_base(settings), settings).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    ids = torch.randint(3, 1000, (2, 64))
    batch = {"input_ids": ids, "labels": ids, "position_ids": torch.arange(32).repeat(2, 2)}

    def step(every: int) -> tuple[int, torch.Tensor, list[torch.Tensor]]:
        model.activation_checkpointing_disable()
        if every:
            model.activation_checkpointing_enable(every_n_layers=every)
        model.zero_grad()
        loss = likelihood.training_losses(model, batch).sum()
        loss.backward()
        layers = sum(m.gradient_checkpointing for m in model.modules() if type(m).__name__ == "MistralDecoderLayer")
        return layers, loss.detach(), [p.grad.clone() for p in model.parameters() if p.requires_grad]

    (none, loss, gradients), second, every = step(0), step(2), step(1)
    assert (none, second[0], every[0]) == (0, 1, 2) and all(bool(g.abs().sum()) for g in gradients)
    for _, same, others in (second, every):
        torch.testing.assert_close(same, loss)
        torch.testing.assert_close(others, gradients)


def room_for(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(fit_plan, "room", lambda machine, here: (size, None))


def test_a_training_chooses_once_and_a_resumed_one_keeps_the_choice(opened: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened(**ALL_AUTO, blocks_per_step=4, sample_count=0)
    work = workload.work_of(run.settings)
    plenty = fit_plan.as_set(run.settings, work)
    few = {"micro_batch_size": 1, "gradient_accumulation_steps": 4, "activation_checkpointing": True}
    room_for(monkeypatch, fit_plan.as_set(run.settings.model_copy(update=few), work).peak + plenty.reserve)
    expected = fit_plan.as_set(run.settings, work)
    result = train.train(run)
    (chosen,) = events(run, "chosen")
    assert chosen["parameters"] == list(FITTED) and tuple(chosen[name] for name in FITTED) == fitted(expected.settings)
    assert fitted(expected.settings) != fitted(plenty.settings) == (4, 1, False)
    assert tuple(result[name] for name in FITTED) == fitted(expected.settings) and result["effective_batch"] == 4
    assert chosen["needed_gib"] == round(expected.peak / GIB, 2) and "chosen: micro batch" in training_log.line(chosen)
    room_for(monkeypatch, 100 * GIB)
    again = other(run, checkpoint_every_steps=3)
    assert train.train(again)["steps"] == result["steps"] and len(events(again, "chosen")) == 1
    first, second = events(again, "process")
    assert all(first[name] == second[name] for name in FITTED)
    now = training_status.status(again)
    assert tuple(getattr(now, name) for name in FITTED) == fitted(expected.settings)


def test_a_single_block_that_does_not_fit_recomputes_more_layers_before_it_gives_up(opened: Callable[..., Run]) -> None:
    batch = {"micro_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 2}
    plain = train.train(opened(**batch))
    losses = [step["loss"] for step in training_log.steps(log_of(opened(**batch)))]
    run = opened(**batch, activation_checkpointing="auto", seed=42, max_validation_tokens=512)
    with at_forward(lambda n: n == 1):
        result = train.train(run)
    (shortage,) = events(run, "out_of_memory")
    assert (shortage["was"], shortage["activation_checkpointing"]) == ("1 x 2", 2) == (str(out_of_memory.BatchShape(1, 2, 2)), 2)
    assert result["activation_checkpointing"] == 2 and plain["activation_checkpointing"] is False
    assert [step["loss"] for step in training_log.steps(log_of(run))] == pytest.approx(losses, rel=1e-4)
    failing = opened(**batch, activation_checkpointing="auto", learning_rate=4e-3)
    with (
        at_forward(lambda n: True),
        pytest.raises(out_of_memory.OutOfMemoryError, match=r"In this order: set quantization: nf4; lower max_tokens"),
    ):
        train.train(failing)
    assert [event["activation_checkpointing"] for event in events(failing, "out_of_memory")] == [2, True]


def test_the_next_shape_after_one_block_recomputes_more() -> None:
    shapes, shape = [], out_of_memory.BatchShape(2, 3, 4)
    while shape := shape.smaller(recompute=True):
        shapes.append((shape.micro_batch_size, shape.gradient_accumulation_steps, shape.activation_checkpointing))
    assert shapes == [(1, 6, 4), (1, 6, 2), (1, 6, True)]
    assert out_of_memory.BatchShape(1, 6, 4).smaller() is None
    auto = Settings(**ALL_AUTO)
    event = {"event": "out_of_memory", "requested": "auto x auto", "micro_batch_size": 1, "gradient_accumulation_steps": 8,
             "activation_checkpointing": 2}  # fmt: skip
    chosen = Settings(micro_batch_size=2, gradient_accumulation_steps=4)
    assert out_of_memory.shape_now(auto, [event], chosen) == out_of_memory.BatchShape(1, 8, 2)
    assert out_of_memory.shape_now(auto, [], chosen) == out_of_memory.BatchShape(2, 4)
    explicit = auto.model_copy(update={"activation_checkpointing": True})
    changed = chosen.model_copy(update={"activation_checkpointing": True})
    assert out_of_memory.shape_now(explicit, [event], changed) == out_of_memory.BatchShape(1, 8, True), "the parameter counts"

"""The evaluation stage: base model against adapter on the test split, forgetting, memorization, answers, and the verdict.

The model is loaded once, and each batch is measured with the adapter off and on. An interrupted evaluation resumes.
"""

import time
from dataclasses import asdict
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mistral_lib.display import votes
from mistral_lib.evaluation import (
    answer_metrics,
    cards,
    general_answers,
    generation,
    label_accuracy,
    lm_eval_tasks,
    memorization,
    paired_difference,
    prompt_sensitivity,
    report,
    retention,
    verdict,
)
from mistral_lib.evaluation.generation import read_records
from mistral_lib.evaluation.measurements import Measurements
from mistral_lib.evaluation.retention import RetentionSet
from mistral_lib.kernels import fused_layers
from mistral_lib.model import base_model
from mistral_lib.model.likelihood import RecordLoss
from mistral_lib.preparation import stage_inputs
from mistral_lib.run import Run, cuda_device, files, hardware
from mistral_lib.run.folder import FORMAT, MEASURING
from mistral_lib.tokens import packed_dataset

__all__ = ["RecordLoss", "evaluate", "read_records"]


def evaluate(run: Run) -> dict[str, Any]:
    """Run the evaluation stage unless it is complete, and return evaluation/result.json.

    Errors: RuntimeError if training is not complete, StaleStageError if it is stale; NoUsableGpuError; ModuleNotFoundError if lm_eval_tasks needs lm-eval;
    ValueError if a test record was trained on; SourceError, NoRetentionSetError, NotFiniteError.
    """
    lm_eval_tasks.require_lm_eval(run.settings.lm_eval_tasks)
    if run.status("evaluation") != "complete":  # one that is complete may be read, or judged again, on any machine
        cuda_device.require(run.settings.instance, "evaluation")
    stage_inputs.require_current(run, "training")
    inputs = stage_inputs.hashes(run, "evaluation")
    read = {name: digest for name, digest in inputs.items() if name != stage_inputs.VOTES}
    parameters = {**run.settings.work_depends_on("evaluation"), "micro_batch_size": micro_batch_size(run)}
    key = files.digest([read, parameters, FORMAT["evaluation"], generation.AT_ONCE])
    earlier = run.folder / "evaluation" / "measured" if measured_is_intact(run) else None
    run.run_stage(
        "evaluation", inputs, lambda folder: Evaluation(run, folder, Measurements(run.folder / MEASURING, key, earlier)).evaluate_all()
    )
    return files.read_json(run.folder / "evaluation" / "result.json")


def micro_batch_size(run: Run) -> int:
    """The micro batch of the measurements: its parameter; for `auto` the one with which its training ended."""
    size = run.settings.micro_batch_size
    return files.read_json(run.folder / "training" / "result.json")["micro_batch_size"] if size == "auto" else size


def measured_is_intact(run: Run) -> bool:
    """Whether the measurements of an earlier evaluation are on disk, with the hashes of its manifest."""
    outputs = run.entry("evaluation").get("outputs", {})
    measured = {name: fact for name, fact in outputs.items() if name.startswith("evaluation/measured/")}
    return bool(measured) and all((run.folder / n).is_file() and files.sha256(run.folder / n) == f["sha256"] for n, f in measured.items())


class Evaluation:
    """The steps of one evaluation, in order."""

    def __init__(self, run: Run, folder: Path, measured: Measurements):
        self.run, self.settings, self.folder, self.measured = run, run.settings, folder, measured
        self.data, self.began = run.folder / "data", time.perf_counter()
        self.micro_batch_size = micro_batch_size(run)

    def evaluate_all(self) -> dict[str, Any]:
        """Write all files into the folder, and return the figures for the manifest."""
        from datasets import load_from_disk

        self.train, self.test = load_from_disk(self.data / "train"), load_from_disk(self.data / "test")
        self.trained_on = trained_records(self.run, self.train)
        refuse_trained_records(self.trained_on, self.test)
        self.tokenizer = base_model.load_tokenizer(self.settings.base_model)
        result, samples = self.test_losses(), self.answers()
        result["labels"] = label_accuracy.measure(self.tokenizer, self.records, self.data, self.settings, self.measured, lambda: self.model)
        result["prompt_worth"] = self.prompt_worth()
        result["retention"] = self.retention_losses(self.general_set())
        result["own_retention"] = self.retention_losses(self.own_set())
        result["votes"] = asdict(votes.preference(votes.of_run(self.run, samples).votes()))
        result["memorization"] = {**self.train_test_gaps(result), "copied": memorization.copied(samples, self.data)}
        result["answers"] = answer_metrics.summary(samples, self.settings.answer_formats)
        result["lm_eval"] = self.lm_eval_results()
        result["rules"] = verdict.rules(result, self.settings)
        result["verdict"] = verdict.decide(result["rules"])
        result["sentence"] = verdict.sentence(result)
        result |= {"seconds": round(time.perf_counter() - self.began, 1), "peak_memory_mib": hardware.peak_memory_mib()}
        self.write(result, samples)
        return {"verdict": result["verdict"], **result["overall"]}

    @cached_property
    def model(self) -> Any:
        """Base model and adapter, loaded when the first measurement is missing: a changed rule or a new vote needs neither."""
        cuda_device.require(self.settings.instance, "evaluation")
        model = base_model.load_adapter(self.settings, self.run.folder / "training" / "adapter")
        if next(model.parameters()).device.type == "cpu":
            fused_layers.unpack(model)  # generating would unpack all weights for each token
        return model

    def measure(self, name: str, blocks: Any) -> dict[str, list[RecordLoss]]:
        return self.measured.losses(name, lambda: self.model, blocks, self.micro_batch_size)

    def test_losses(self) -> dict[str, Any]:
        """Losses of base and adapter on the test split, and their difference."""
        self.records = read_records(self.data, "test")
        documents = self.documents = {row["record_id"]: row["source_group"] for row in self.records}
        blocks = packed_dataset.first_blocks(self.test, self.settings.max_test_tokens)
        largest = self.measured.each("active", [0], lambda _: largest_logit_difference(self.model, blocks), "adapter off and on")[0]
        losses = self.losses = self.measure("test", blocks)
        pq.write_table(loss_table(losses, documents), self.folder / "losses.parquet")
        return {**compare(losses["base"], losses["adapter"], self.settings.seed, documents), "largest_logit_difference": largest,
                "test_records_in_split": len(self.records)}  # fmt: skip

    def answers(self) -> list[dict[str, Any]]:
        """Greedy answers of both to the same test prompts, with the references."""
        s = self.settings
        chosen = generation.choose_samples(self.tokenizer, self.records, s.sample_count, s.max_new_tokens)
        return generation.samples(self.measured, lambda: self.model, self.tokenizer, chosen, s.max_new_tokens)

    def prompt_worth(self) -> dict[str, Any] | None:
        """How much less likely the measured answers are after another prompt, for base and adapter; None without chats."""
        measured = {loss.record_id for loss in self.losses["base"]}
        rows = [row for row in self.records if row["record_id"] in measured]
        blocks = prompt_sensitivity.blocks_with_other_prompts(self.tokenizer, rows, self.settings)
        if blocks is None:
            return None
        return prompt_sensitivity.prompt_worth(self.losses, self.measure("other_prompts", blocks), self.documents, self.settings.seed)

    def general_set(self) -> RetentionSet | None:
        return general_answers.build(self.settings, self.tokenizer, lambda: self.model, self.measured)

    def own_set(self) -> RetentionSet | None:
        return retention.build(self.settings, self.tokenizer, self.trained_on) if self.settings.retention_paths else None

    def retention_losses(self, kept: RetentionSet | None) -> dict[str, Any] | None:
        """The same comparison on a retention set; None without one."""
        if kept is None:
            return None
        losses = self.measure(kept.name, kept.blocks)
        return {**compare(losses["base"], losses["adapter"], self.settings.seed, kept.documents), "left_out": kept.left_out}

    def lm_eval_results(self) -> list[dict[str, Any]]:
        """The results of the requested lm-eval tasks."""
        size = self.micro_batch_size
        found = self.measured.each("lm_eval", self.settings.lm_eval_tasks,
                                   lambda task: lm_eval_tasks.measure(self.model, self.tokenizer, task, size), "lm-eval tasks")  # fmt: skip
        return [row for rows in found for row in rows]

    def train_test_gaps(self, test: dict[str, Any]) -> dict[str, Any]:
        """What the adapter gained on training records beyond what it gained on test records: `overall`, and `domains` in both."""
        losses = self.measure("train", memorization.sample_blocks(self.train, self.settings.max_probe_tokens, self.settings.seed))
        train = compare(losses["base"], losses["adapter"], self.settings.seed, memorization.documents(self.data, "train"))
        both = [domain for domain in test["domains"] if domain in train["domains"]]
        domains = {domain: memorization.gap(train["domains"][domain], test["domains"][domain]) for domain in both}
        return {"overall": memorization.gap(train["overall"], test["overall"]), "domains": domains}

    def write(self, result: dict[str, Any], samples: list[dict[str, Any]]) -> None:
        files.write_json(self.folder / "result.json", result)
        files.write_json_lines(self.folder / "samples.jsonl", samples)
        files.write_text(self.folder / "report.html", report.page(self.run, result, samples))
        files.write_text(self.folder / "model_card.md", cards.model_card(self.run, result))
        files.write_text(self.folder / "dataset_card.md", cards.dataset_card(self.run))
        self.measured.folder.rename(self.folder / "measured")


def trained_records(run: Run, train: Any) -> set[str]:
    """The ids of the records that the adapter was trained on or chosen by, as its training recorded them.

    A training of an older version recorded none: its data are unchanged (`require_current`), so they are those of the training split.
    """
    recorded = run.folder / "training" / packed_dataset.RECORD_IDS
    return packed_dataset.read_record_ids(recorded) if recorded.exists() else set(chain.from_iterable(train["record_ids"]))


def refuse_trained_records(trained_on: set[str], test: Any) -> None:
    """A record that the training has seen is not held out. Errors: ValueError."""
    if shared := trained_on & set(chain.from_iterable(test["record_ids"])):
        raise ValueError(
            f"{len(shared)} test records are among those that this adapter was trained on or chosen by (first: {min(shared)}), so they are "
            "not held out: prepare the data (notebook 02) and train (notebook 03) again"
        )


def compare(
    base: list[RecordLoss], adapter: list[RecordLoss], seed: int, documents: dict[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """The difference adapter - base in nats per supervised token: `overall`, and in `domains` for each."""
    return {"overall": paired_difference.compare(base, adapter, seed, documents),
            "domains": paired_difference.by_domain(base, adapter, seed, documents)}  # fmt: skip


def largest_logit_difference(model: Any, blocks: Any) -> float:
    """The largest absolute difference between the logits of the first block with and without the adapter; 0: it has no effect."""
    import torch

    device = next(model.parameters()).device
    batch = {name: torch.tensor(blocks[:1][name], device=device) for name in ("input_ids", "position_ids")}
    model.eval()
    with torch.inference_mode():
        on = model(**batch, use_cache=False, logits_to_keep=64).logits.float()
        with model.disable_adapter():
            off = model(**batch, use_cache=False, logits_to_keep=64).logits.float()
    return (on - off).abs().max().item()


def loss_table(losses: dict[str, list[RecordLoss]], documents: dict[str, str]) -> pa.Table:
    """losses.parquet: a row per test record, for comparing runs and for further analysis."""
    pairs = zip(losses["base"], losses["adapter"], strict=True)
    return pa.Table.from_pylist(
        [{"record_id": one.record_id, "domain": one.domain, "document": documents[one.record_id], "supervised_tokens": one.tokens,
          "base_nats": one.nats, "adapter_nats": two.nats} for one, two in pairs]
    )  # fmt: skip

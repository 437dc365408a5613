"""The evaluation stage on a tiny model: expected verdicts, refusals, resuming, and a self-contained report."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, load_from_disk
from safetensors.torch import load_file, save_file

from mistral_lib.display import vote_page
from mistral_lib.evaluation import evaluate, measurements, report, retention, verdict
from mistral_lib.model import base_model, likelihood
from mistral_lib.preparation import audit, prepare
from mistral_lib.run import Run, files
from mistral_lib.run.folder import MEASURING
from mistral_lib.tokens import packed_dataset
from mistral_lib.tokens.chat_format import IGNORED
from mistral_lib.training import train as training
from tests.support.corpora import other, rows, short_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Iterator[Path]:
    """A home with one trained run, made once; tests work on copies of it."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRAL_WORKBOOK_HOME", str(place))
        for domain in ("red", "green", "blue"):
            files.write_json_lines(place / "corpora" / "small" / f"{domain}.jsonl", rows(domain, 200))
        own = [{"text": f"{row['completion']} It is not in the corpus, and nobody has trained on it."} for row in rows("kept", 40)]
        files.write_json_lines(place / "corpora" / "own_texts.jsonl", own)
        settings = short_run(
            run_name="small", corpus_paths=["corpora/small"], retention_paths=["corpora/own_texts.jsonl"], base_model=tiny_model, max_tokens=128, max_steps=8,
            checkpoint_every_steps=4, learning_rate=5e-3, validation_share=0.15, test_share=0.15, max_validation_tokens=1024,
            max_test_tokens=2048, max_probe_tokens=512, sample_count=4, max_new_tokens=48, general_prompts=6,
        )  # fmt: skip
        run = Run.open(settings)
        prepare.prepare(run)
        train(run)
        yield place


def train(run: Run) -> None:
    """Train in this process and restore its signal handlers, which the trainer replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    training.train(run)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def run(trained: Path, home: Path) -> Run:
    shutil.copytree(trained, home, dirs_exist_ok=True)
    return Run.existing(home / "runs" / "small")


def put_adapter(run: Run, change) -> None:
    """Change the adapter's tensors on disk and record the changed file as the output of training."""
    place = run.folder / "training" / "adapter" / "adapter_model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(place).items()}, place, metadata={"format": "pt"})
    run.complete("training", run.entry("training")["figures"])


def test_it_measures_judges_and_reports(run: Run) -> None:
    result = evaluate.evaluate(run)
    assert result["overall"]["high"] < 0 and result["largest_logit_difference"] > 0
    assert {one["rule"] for one in result["rules"]} == {
        "adapter is active",
        "better overall",
        "no domain worse",
        "prompts still count",
        "little forgotten",
        "own texts kept",
        "answers stop",
    }
    outcomes = {one["outcome"] for one in result["rules"]}
    word = "do not ship" if "failed" in outcomes else "ship" if outcomes == {"passed"} else "not enough evidence"
    assert result["verdict"] == word and result["sentence"].startswith(f"{word}: ")
    table = pq.read_table(run.folder / "evaluation" / "losses.parquet").to_pylist()
    assert sum(row["adapter_nats"] for row in table) / sum(row["supervised_tokens"] for row in table) == pytest.approx(
        result["overall"]["adapter"]
    )
    assert result["overall"]["documents"] == len({row["document"] for row in table}) < len(table)
    assert set(result["memorization"]["domains"]) <= set(result["domains"]) and result["own_retention"]["overall"]["records"] > 10
    assert result["retention"]["overall"]["records"] == 6 == len(result["retention"]["domains"]), "a prompt of each of six kinds"
    assert [str(f) for f in audit.audit(run.folder) if f.status != "verified"] == []
    for card in ("model_card.md", "dataset_card.md"):
        assert (run.folder / "evaluation" / card).read_text().startswith("---\n")
    page = (run.folder / "evaluation" / "report.html").read_text()
    assert result["verdict"] in page and all(one["rule"] in page for one in result["rules"])
    words, samples = "The retention sets are", files.read_json_lines(run.folder / "evaluation" / "samples.jsonl")
    assert words in page and words not in report.page(run, {**result, "retention": None, "own_retention": None}, samples), (
        "the page does not mention what was not measured"
    )
    assert "Plan against measured" in page and "training stage, seconds" in page
    refuse_outside_requests(page)


def refuse_outside_requests(page: str) -> None:
    assert page.startswith("<!doctype html>")
    assert re.findall(r"data:image/png;base64,", page)
    assert not re.findall(r"<(?:script|link|iframe|object|embed|base)\b|@import|url\(", page)
    assert all(target.startswith("data:") for target in re.findall(r"\b(?:src|href|srcset|action|poster)\s*=\s*[\"']?([^\"'\s>]+)", page))


def test_a_changed_rule_is_applied_without_measuring_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate.evaluate(run)
    monkeypatch.setattr(likelihood, "paired_batch_losses", None)  # measuring again would fail
    monkeypatch.setattr(base_model, "load_adapter", None)  # and so would loading a model
    lenient = evaluate.evaluate(other(run, max_retention_loss=9.0, min_stop_rate=0.0))
    assert lenient["overall"] == first["overall"] and lenient["rules"] != first["rules"]


def test_new_votes_are_judged_without_loading_a_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate.evaluate(run)
    assert first["votes"]["adapter"] == first["votes"]["base"] == 0
    ballot = vote_page.ballot(run)
    for pair in ballot.pairs:
        for voter in "abcde":
            ballot.vote(pair, "left" if pair.adapter_left else "right", voter)
    assert [f.reason for f in audit.audit(run.folder) if f.status == "stale"] == ["input votes.jsonl is new"]
    monkeypatch.setattr(base_model, "load_adapter", None)
    second = evaluate.evaluate(run)
    count = 5 * len(ballot.pairs)
    assert second["votes"]["adapter"] == count >= 10 and {one["rule"] for one in second["rules"]} > {one["rule"] for one in first["rules"]}
    sentence = f"{count} of {count} decided votes for the adapter"
    for name in ("report.html", "model_card.md"):
        assert sentence in (run.folder / "evaluation" / name).read_text()


SHAPING = {"seed": 7, "max_tokens": 64, "micro_batch_size": 1, "long_records": "truncate", "domain_key": "kind", "group_key": "page",
           "columns": {"text": "body"}, "salvage": False, "pdf_characters": 500}  # fmt: skip


def test_every_parameter_of_the_measured_texts_makes_the_evaluation_stale(run: Run, home: Path) -> None:
    """The retention set is read and packed by parameters of the data stage: other values give other numbers."""
    texts = [{"text": " ".join(f"word{n} of text {k}" for n in range(20)), "kind": f"k{k % 3}"} for k in range(20)]
    files.write_json_lines(home / "kept.jsonl", texts)
    run = other(run, retention_paths=["kept.jsonl"], max_probe_tokens=0)
    assert set(evaluate.evaluate(run)["own_retention"]["domains"]) == {"kept"}
    for name, value in SHAPING.items():
        (doubt,) = audit.unverified(other(run, **{name: value}), "evaluation")
        assert doubt.status == "stale" and f"{name}: " in doubt.reason


def test_a_changed_retention_set_makes_the_evaluation_stale(run: Run, home: Path) -> None:
    kept = home / "kept.jsonl"
    files.write_json_lines(kept, [{"text": f"Quite another text, number {n}, of which training knows nothing."} for n in range(30)])
    run = other(run, retention_paths=["kept.jsonl"])
    evaluate.evaluate(run)
    assert [str(f) for f in audit.audit(run.folder) if f.status != "verified"] == []
    files.write_json_lines(kept, [{"text": "Another text again, which nobody has measured."}])
    assert [f.reason for f in audit.audit(run.folder) if f.status == "stale"] == ["input retention/kept.jsonl changed"]


def test_an_adapter_with_zero_b_changes_nothing_and_gives_not_enough_evidence(run: Run) -> None:
    put_adapter(run, lambda name, tensor: torch.zeros_like(tensor) if "lora_B" in name else tensor)
    result = evaluate.evaluate(run)
    assert result["largest_logit_difference"] == 0.0
    assert result["overall"]["difference"] == result["overall"]["low"] == result["overall"]["high"] == 0.0
    assert result["retention"]["overall"]["difference"] == 0.0 and result["verdict"] == "not enough evidence"


def test_a_loss_that_is_not_finite_ends_the_evaluation_and_names_the_record(run: Run) -> None:
    put_adapter(run, lambda name, tensor: torch.full_like(tensor, float("nan")) if "layers.1" in name and "lora_B" in name else tensor)
    with pytest.raises(
        measurements.NotFiniteError,
        match=r"test: record [0-9a-f]{16} \(\w+\) has a loss of nan with the adapter model, computed in torch\.\w+;.*try dtype=float32",
    ):
        evaluate.evaluate(run)
    assert run.status("evaluation") == "failed" and files.read_json_lines(run.folder / MEASURING / "test.jsonl") == []


def test_an_adapter_trained_on_reversed_answers_does_not_ship(run: Run, home: Path) -> None:
    """The base model already solves the task, and the words of every training answer are reversed: the test loss rises.

    test_shuffled_answers.py has the case in which it falls: the answers belong to other prompts."""
    knowing = merged(run, home / "models" / "knowing")
    turned = [
        {**row, "completion": " ".join(reversed(row["completion"].split()))}
        for domain in ("red", "green", "blue")
        for row in rows(domain, 200)
    ]
    files.write_json_lines(home / "corpora" / "turned" / "all.jsonl", turned)
    settings = run.settings.model_copy(update={"base_model": knowing, "sample_count": 0, "quantization": "none"})
    wrong = Run.open(settings.model_copy(update={"run_name": "wrong", "corpus_paths": ["corpora/turned"]}))
    prepare.prepare(wrong)
    train(wrong)
    judged = Run.open(settings.model_copy(update={"run_name": "judged"}))
    prepare.prepare(judged)
    train(judged)
    shutil.copytree(wrong.folder / "training" / "adapter", judged.folder / "training" / "adapter", dirs_exist_ok=True)
    judged.complete("training", {})
    result = evaluate.evaluate(judged)
    assert result["verdict"] == "do not ship" and result["overall"]["low"] > 0
    with pytest.raises(verdict.NotToShipError, match="require_ship is set"):
        verdict.require_ship(result, settings.model_copy(update={"require_ship": True}))


def merged(run: Run, place: Path) -> str:
    """A base model that solves the task: the trained adapter merged into its own base model."""
    settings = run.settings.model_copy(update={"quantization": "none", "dtype": "float32"})
    base_model.load_adapter(settings, run.folder / "training" / "adapter").merge_and_unload().save_pretrained(place)
    base_model.load_tokenizer(settings.base_model).save_pretrained(place)
    return str(place)


def test_a_test_record_that_was_trained_on_or_chosen_by_is_refused(run: Run) -> None:
    """By what the training recorded, not by today's splits: those of an adapter from elsewhere would look disjoint."""
    recorded = run.folder / "training" / packed_dataset.RECORD_IDS
    table = pq.read_table(recorded).to_pylist()
    assert {row["split"] for row in table} == {"train", "validation"}
    test = load_from_disk(run.folder / "data" / "test")
    for split in ("train", "validation"):
        packed_dataset.write_record_ids(recorded, **{split: Dataset.from_dict({"record_ids": test["record_ids"][:1]})})
        run.complete("training", run.entry("training")["figures"])
        with pytest.raises(ValueError, match=r"\d+ test records are among those that this adapter was trained on or chosen by"):
            evaluate.evaluate(run)
    recorded.unlink()
    run.complete("training", run.entry("training")["figures"])
    assert evaluate.evaluate(run)["overall"]["records"] > 10, "a training of an older version recorded none"


def test_the_base_models_answers_are_kept_and_are_its_best_text(run: Run, home: Path) -> None:
    result = evaluate.evaluate(run)
    (kept,) = (home / "models" / "general_answers").glob("*.json")
    answers = files.read_json(kept)
    assert len(answers) == 6 and all(answer["ids"] for answer in answers)
    facts = result["retention"]["overall"]
    assert facts["supervised_tokens"] == sum(len(answer["ids"]) for answer in answers)
    assert facts["base"] < result["overall"]["base"] and facts["difference"] > 0, "greedy text of its own is what it predicts best"
    before = kept.stat().st_mtime_ns
    shutil.rmtree(run.folder / "evaluation")
    assert evaluate.evaluate(run)["retention"] == result["retention"] and kept.stat().st_mtime_ns == before, "read, not generated again"


def test_retention_records_that_are_in_training_are_left_out_and_an_empty_set_is_an_error(run: Run, home: Path) -> None:
    tokenizer, train = base_model.load_tokenizer(run.settings.base_model), load_from_disk(run.folder / "data" / "train")
    trained = {i for ids in train["record_ids"] for i in ids}
    files.write_json_lines(home / "kept.jsonl", [*rows("red", 200), {"text": "Quite another text, of which training knows nothing."}])
    kept = retention.build(run.settings.model_copy(update={"retention_paths": ["kept.jsonl"], "max_probe_tokens": 0}), tokenizer, trained)
    measured = {i for ids in kept.blocks["record_ids"] for i in ids}
    assert measured and not measured & trained and kept.left_out["in_training"] > 100
    files.write_json_lines(home / "same.jsonl", rows("red", 200))
    everything = trained | measured
    with pytest.raises(retention.NoRetentionSetError, match="in_training"):
        retention.build(run.settings.model_copy(update={"retention_paths": ["same.jsonl"]}), tokenizer, everything)


EVALUATE = "import sys, pathlib; from mistral_lib.evaluation import evaluate; from mistral_lib.run import Run; evaluate.evaluate(Run.existing(pathlib.Path(sys.argv[1])))"


def test_a_killed_evaluation_resumes_and_gives_the_same_result(run: Run) -> None:
    run = other(run, max_test_tokens=0)
    undisturbed = evaluate.evaluate(run)
    shutil.rmtree(run.folder / "evaluation")
    measured = run.folder / ".evaluation.measured" / "test.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", EVALUATE, str(run.folder)],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(files.read_json_lines(measured)) < 3:
        assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = files.read_json_lines(measured)
    blocks = load_from_disk(run.folder / "data" / "test")
    assert run.status("evaluation") == "interrupted" and 3 <= len(done) < len(blocks) / run.settings.micro_batch_size
    measured.write_bytes(measured.read_bytes() + b'{"base": [["half')  # as after a kill in the middle of a line
    resumed = evaluate.evaluate(run)
    assert files.read_json_lines(run.folder / "evaluation" / "measured" / "test.jsonl")[: len(done)] == done
    timing = {"seconds", "peak_memory_mib"}
    assert {k: v for k, v in resumed.items() if k not in timing} == {k: v for k, v in undisturbed.items() if k not in timing}


def test_the_likelihood_agrees_with_a_plain_loop_over_200_records(run: Run, tiny_model: str) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    blocks = load_from_disk(run.folder / "data" / "train")
    packed = {loss.record_id: loss for loss in likelihood.record_losses(model, blocks, 8)}
    compared = 0
    for record_id, ids, labels in separate(blocks):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]  # the plain way: one record, all logits
        wanted = torch.tensor(labels[1:])
        plain = torch.nn.functional.cross_entropy(logits.double(), wanted, ignore_index=IGNORED, reduction="sum").item()
        assert packed[record_id].nats == pytest.approx(plain, rel=1e-5)
        compared += 1
        if compared == 200:
            return
    pytest.fail(f"only {compared} records")


def separate(blocks: Dataset) -> Iterator[tuple[str, list[int], list[int]]]:
    """The records of packed blocks one by one: (id, token ids, labels). Only for records of one window."""
    for block in blocks:
        starts = [i for i, place in enumerate(block["position_ids"]) if place == 0] + [len(block["input_ids"])]
        for number, record_id in enumerate(block["record_ids"]):
            part = slice(starts[number], starts[number + 1])
            yield record_id, block["input_ids"][part], block["labels"][part]


def test_the_report_marks_the_differences_of_two_answers_and_keeps_html_as_text() -> None:
    one, two = report.mark_differences("It returns the sum", "It returns <b>the</b> sum")
    assert ("<b>the</b>", True) in two and ("the", True) in one
    assert "".join(text for text, _ in one) == "It returns the sum"


def test_peak_memory_does_not_grow_with_the_records(run: Run) -> None:
    """10,000 records after 800, in a process of its own: the logits of all of them would take 5 GiB in float32."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(run.folder)], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    few, many = map(int, done.stdout.split()[-2:])
    assert many - few < 40, f"{few} MiB for 800 records, {many} MiB for 10,000"


PEAK = """
import sys, resource, pathlib
from datasets import Dataset
from mistral_lib.evaluation import measurements
from mistral_lib.model import base_model
from mistral_lib.run import Run
run = Run.existing(pathlib.Path(sys.argv[1]))
model = base_model.load_adapter(run.settings, run.folder / "training" / "adapter")
def blocks(count):
    for n in range(count // 16):
        token = 7 + n % 90
        yield {"input_ids": [token] * 128, "labels": ([-100] * 5 + [token] * 3) * 16, "position_ids": list(range(8)) * 16,
               "record_ids": [f"{n}-{i}" for i in range(16)], "domains": ["one"] * 16}
for count in (800, 10_000):
    packed = Dataset.from_generator(blocks, gen_kwargs={"count": count}, cache_dir=str(run.folder / f"cache-{count}"))
    found = measurements.Measurements(run.folder / f"work-{count}", "key").losses("test", lambda: model, packed, 8)
    assert len(found["base"]) == count // 16 * 16
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_tasks_without_lm_eval_are_refused_at_once_with_the_install_command(run: Run) -> None:
    if importlib.util.find_spec("lm_eval"):
        pytest.skip("lm-eval is installed here")
    with pytest.raises(ModuleNotFoundError, match="pip install lm-eval"):
        evaluate.evaluate(other(run, lm_eval_tasks=["hellaswag"]))


def test_samples_record_whether_each_answer_ended(run: Run) -> None:
    result = evaluate.evaluate(run)
    samples = files.read_json_lines(run.folder / "evaluation" / "samples.jsonl")
    assert len(samples) == run.settings.sample_count > 0
    for who in ("base", "adapter"):
        ended = [sample[f"{who}_stopped"] for sample in samples]
        assert all(isinstance(one, bool) for one in ended) and sum(ended) == result["answers"][who]["stop_rate"]["count"]

"""The model card and the dataset card, in the Hugging Face metadata format, from the results of a run.

They are written to evaluation/, since the adapter's folder keeps exactly what training wrote. To publish the adapter, give model_card.md
with it: the README of its folder has no verdict.
"""

from bisect import bisect
from typing import Any

from mistral_lib.display import votes
from mistral_lib.evaluation import verdict
from mistral_lib.model import adapter_readme, base_model
from mistral_lib.model.adapter_readme import front_matter
from mistral_lib.run import Run, files

SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")  # the hub's size categories


def table(head: list[str], rows: list[list[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells)


def model_card(run: Run, result: dict[str, Any]) -> str:
    """The verdict with its rules, the training, the losses by domain, and the limits."""
    settings, training = run.settings, files.read_json(run.folder / "training" / "result.json")
    provenance = files.read_json(run.folder / "training" / "adapter" / "provenance.json")
    facts = result["overall"]
    metadata = {
        **adapter_readme.metadata(settings),
        "model-index": [{"name": run.folder.name, "results": [{
            "task": {"type": "text-generation"}, "dataset": {"name": f"{run.folder.name}, test split", "type": "private"},
            "metrics": [{"type": "loss", "name": f"{who}, nats per supervised token", "value": round(facts[who], 4)} for who in ("base", "adapter")],
        }]}],
    }  # fmt: skip
    rules = [[one["rule"], one["number"], one["threshold"], one["outcome"]] for one in result["rules"]]
    by_domain = [[name, f["records"], f"{f['base']:.3f}", f"{f['adapter']:.3f}", f"{f['difference']:+.3f}{verdict.span(f)}"]
                 for name, f in result["domains"].items()]  # fmt: skip
    return "\n\n".join([
        front_matter(metadata) + f"# {run.folder.name}: a LoRA adapter of {base_model.shown_name(settings.base_model)}",
        f"**Verdict: {result['sentence']}**",
        "## Rules\n\n" + table(["rule", "measured", "required", "outcome"], rules),
        *labels(result),
        "## Training\n\n" + f"{training['steps']} steps, {training['trainable_parameters']:,} trainable parameters, rank {settings.lora_rank}, "
        f"learning rate {settings.learning_rate}, {settings.quantization} base weights, compute type {training['dtype']}, seed {settings.seed}. "
        f"SHA-256 of the adapter's weights: `{provenance['weights_sha256']}`.",
        "## Test loss by domain, nats per supervised token\n\n" + table(["domain", "records", "base", "adapter", "difference"], by_domain),
        "## Limits\n\nA lower loss means that held-out text of the same corpus is predicted better. It does not mean that people prefer the "
        "answers, nor that they are true. " + f"Blind vote: {preference(result)}. {forgetting(result)}",
    ]) + "\n"  # fmt: skip


def labels(result: dict[str, Any]) -> list[str]:
    """The accuracy in each label domain; nothing if there is none."""
    found = result["labels"]
    if not found or not found["records"]:
        return []
    rows = [[name, f["records"], f"{f['majority_accuracy']:.1%}", *(f"{f['likelihood'][who]['accuracy']:.1%}" for who in ("base", "adapter")),
             verdict.points(f["likelihood"]["difference"])] for name, f in found["domains"].items()]  # fmt: skip
    head = ["domain", "test records", "always the most frequent label", "base", "adapter", "difference"]
    return ["## Accuracy of the most likely label\n\n" + table(head, rows)]


def forgetting(result: dict[str, Any]) -> str:
    """What was measured of forgetting, in a sentence for each retention set."""
    sets = {"the base model's own answers to general prompts": result["retention"], "own texts": result["own_retention"]}
    measured = {name: found["overall"] for name, found in sets.items() if found is not None}
    sentences = [f"On {name} the loss changed by {f['difference']:+.3f}{verdict.span(f)} nats per token." for name, f in measured.items()]
    return " ".join(sentences) or "Forgetting was not measured."


def preference(result: dict[str, Any]) -> str:
    """The blind vote in a sentence."""
    return str(votes.Preference(**result["votes"]))


def dataset_card(run: Run) -> str:
    """The rows read, kept, dropped and redacted, the splits and the leaks between them."""
    report, settings = files.read_json(run.folder / "data" / "report.json"), run.settings
    records = sum(report["split_sizes"].values())
    size = SIZES[bisect((1_000, 10_000, 100_000, 1_000_000), records)]
    metadata = {"pretty_name": f"{run.folder.name} corpus", "task_categories": ["text-generation"], "size_categories": [size]}
    dropped = [[reason, f"{count:,}"] for reason, count in sorted(report["rejected"].items(), key=lambda item: -item[1])]
    dropped += [["exact duplicate", f"{report['duplicates_exact']:,}"]]
    if report["duplicates_near"] is not None:
        dropped += [["near-duplicate", f"{report['duplicates_near']:,}"]]
    near = "not measured" if report["leaked_near"] is None else report["leaked_near"]
    return "\n\n".join([
        front_matter(metadata) + f"# The corpus of run {run.folder.name}",
        f"Sources: {', '.join(f'`{path}`' for path in settings.corpus_paths + settings.operatives_paths)}. "
        f"{report['records_read']:,} rows read, {report['records_kept']:,} records kept.",
        "## Splits\n\n" + table(["split", "records", "tokens"], [[name, f"{count:,}", f"{report['tokens'][name]:,}"]
                                                              for name, count in report["split_sizes"].items()]),
        "## Dropped\n\n" + table(["reason", "rows"], dropped),
        "## Redacted\n\n" + (table(["kind", "places"], [[k, f"{n:,}"] for k, n in report["redacted"].items()]) if report["redacted"] else "Nothing."),
        f"## Leaks\n\nHeld-out records whose text or answer is also in training: {report['leaked_exact']}; whose prompt is: "
        f"{report.get('leaked_prompt', 0)}; with a near-duplicate there: {near}.",
    ]) + "\n"  # fmt: skip

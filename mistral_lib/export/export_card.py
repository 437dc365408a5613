"""The model card of a repository on the hub: the evaluation's card, and with it base model, data in numbers, forms, parity, loading and limits.

Nothing private is in it: no path, no text, no name of a run. Domains are numbered, since their names may be those of files of the corpus.
Knows results; knows no hub.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from mistral_lib.evaluation import cards, verdict
from mistral_lib.export import export_readme, export_tables
from mistral_lib.model import adapter_readme, base_model
from mistral_lib.run import Run, files

Facts = Mapping[str, Any]

WORSE = "no domain worse"  # the one rule whose number names domains
LIMITS = "\n\n## Limits\n\n"
LICENSE = """The files of `merged/` and `gguf/` hold the weights of {base}: its license and its conditions hold for them as well. Read them{where}, \
check that they allow what you do, passing it on included, and hand its terms on with the files."""
DATA = """{counts}

{read:,} rows were read: {kept:,} records were kept, {rejected:,} rejected, {duplicates:,} were duplicates. Held out for the test: {test:,} records. \
Held-out records whose text or answer is also in training: {leaked}. The texts are not in this repository; a model may repeat texts that it was \
trained on."""
PARITY = """Each form was compared with the adapter as it was evaluated, on {records} test records with {tokens:,} answer tokens: ids of the \
prompts, log-likelihood of every answer token, whether answers end. "Gain kept" is the share of the adapter's gain over its base model that is \
left in the form, with its 95 % interval; {least:.0%} are required. The adapter was merged into {into} weights."""
MORE_LIMITS = """The verdict is of the adapter as it was evaluated; of the other forms the table of forms says what they keep of it. That was \
measured with transformers (`merged/`) and with llama.cpp (`gguf/`), not with other programs.{ollama} A chat must reach the model in its own \
template: a text that begins with `{start}` already gets a second one from programs that add it."""
DOWNLOAD = "hf download {repository} --include {what} --local-dir ."
USES = {
    "adapter": ('"adapter/*"', "# then the program in adapter/README.md, in that folder"),
    "merged": ('"merged/*"', "# then transformers' from_pretrained or vLLM, with the folder merged/"),
    "lora_gguf": ('"gguf/*"', "llama-server -m {base} --lora {file} --jinja"),
}
GGUF_USE = ("{file}", "llama-server -m {file} --jinja")


def text(run: Run, repository: str, exported: Facts, found: Facts, uploaded: Mapping[str, Facts]) -> str:
    """The complete README.md of a repository.

    exported: export/result.json; found: parity/result.json, empty if there is no form; uploaded: `{path in the repository: {sha256, bytes}}`.
    """
    folder = run.folder / "training" / "adapter"
    provenance, result = files.read_json(folder / "provenance.json"), files.read_json(run.folder / "evaluation" / "result.json")
    metadata, evaluated, limits = parts(cards.model_card(run, without_names(result)))
    name = base_model.shown_name(run.settings.base_model)
    sections = [
        f"# {repository.partition('/')[2]}: a LoRA adapter of {name}",
        evaluated,
        "## Base model\n\n" + base(name, provenance),
        "## Data\n\n" + data(run, provenance),
        *forms(run, exported, found),
        "## Use\n\n" + use(repository, exported, uploaded),
        "## Files\n\n" + listing(uploaded),
        LIMITS.strip() + "\n\n" + limits.strip() + " " + further_limits(run, uploaded),
    ]
    return adapter_readme.front_matter(published(metadata, repository, exported, provenance)) + "\n" + "\n\n".join(sections) + "\n"


def without_names(result: dict[str, Any]) -> dict[str, Any]:
    """The result of an evaluation with its domains numbered, also where a rule and the sentence of the verdict name them."""

    def numbered(domains: dict[str, Any]) -> dict[str, Any]:
        return {numbers.setdefault(name, f"domain {len(numbers) + 1}"): facts for name, facts in domains.items()}

    numbers: dict[str, str] = {}
    by_domain, labels = numbered(result["domains"]), result["labels"]
    if labels and labels["records"]:
        labels = {**labels, "domains": numbered(labels["domains"])}
    rules = [verdict.domains(by_domain) if one["rule"] == WORSE else one for one in result["rules"]]
    changed = {**result, "domains": by_domain, "labels": labels, "rules": rules}
    return {**changed, "sentence": verdict.sentence(changed)}


def parts(card: str) -> tuple[dict[str, Any], str, str]:
    """Of a card that evaluation/cards.py wrote: metadata, body without title and limits, and the limits."""
    _, head, body = card.split("---\n", 2)
    evaluated, _, limits = body.partition("\n\n")[2].partition(LIMITS)
    return yaml.safe_load(head), evaluated, limits


def published(metadata: dict[str, Any], repository: str, exported: Facts, provenance: Facts) -> dict[str, Any]:
    """Metadata for the hub. It takes ids of its own models only as base_model, so another name is left out."""
    metadata["tags"] += ["gguf"] if gguf_forms(exported) else []
    if provenance["base_revision"] is None:
        del metadata["base_model"]
    (model,) = metadata["model-index"]
    model["name"] = repository.partition("/")[2]
    for one in model["results"]:
        one["dataset"]["name"] = "held-out records of the corpus that it was trained on"
    return metadata


def base(name: str, provenance: Facts) -> str:
    """Which base model, and what its license asks for."""
    if commit := provenance["base_revision"]:
        page = f"https://huggingface.co/{name}"
        return f"[`{name}`]({page}) at commit `{commit}`. " + LICENSE.format(base=f"`{name}`", where=" on its page")
    return f"`{name}`, whose weights and configuration have the fingerprint `{provenance['base_identity']}`. " + LICENSE.format(
        base=f"`{name}`", where=" where it comes from"
    )


def data(run: Run, provenance: Facts) -> str:
    """The corpus and the training in numbers."""
    report = files.read_json(run.folder / "data" / "report.json")
    return DATA.format(
        counts=adapter_readme.counts(run.settings, provenance), read=report["records_read"], kept=report["records_kept"],
        rejected=sum(report["rejected"].values()), duplicates=report["duplicates_exact"] + (report["duplicates_near"] or 0),
        test=report["split_sizes"]["test"], leaked=report["leaked_exact"],
    )  # fmt: skip


def forms(run: Run, exported: Facts, found: Facts) -> list[str]:
    """The section on the forms: sizes, and what parity found of each; nothing if none was exported."""
    if not exported["forms"]:
        return []
    rows = [
        [f"`{name}`", row["size"], kept(row), row["outcome"], export_readme.USES[name]]
        for name, row in export_tables.rows(exported, found).items()
    ]
    into = "dequantized NF4" if exported["merged_into"] == "nf4" else "16-bit"
    how = PARITY.format(records=found["records"], tokens=found["answer_tokens"], least=run.settings.min_gain_kept, into=into)
    table = cards.table(["form", "size", "gain kept", "finding", "what it is"], rows)
    evidence = "\n".join(f"- `{one['form']}`: {one['outcome']}: {one['sentence']}" for one in found["findings"])
    return [f"## Forms, and what each keeps of the adapter\n\n{table}\n\n{how}\n\n{evidence}"]


def kept(row: Facts) -> str:
    if row["kept"] is None:
        return "not measured"
    return f"{row['kept']:.1%}" + ("" if row["kept_low"] is None else f" ({row['kept_low']:.1%} to {row['kept_high']:.1%})")


def gguf_forms(exported: Facts) -> list[str]:
    return [form for form in exported["forms"] if form != "merged"]


def use(repository: str, exported: Facts, uploaded: Mapping[str, Facts]) -> str:
    """The commands that fetch and load each form."""
    lines = []
    for form, facts in {"adapter": {"file": "adapter"}, **exported["forms"]}.items():
        what, then = USES.get(form, GGUF_USE)
        lines += [f"# {form}", DOWNLOAD.format(repository=repository, what=what.format(**facts)), then.format(**facts)]
    if "Modelfile" in uploaded:
        fetched = DOWNLOAD.format(repository=repository, what='Modelfile "gguf/*"')
        lines += ["# Ollama", fetched, "ollama create my-model -f Modelfile"]
    return "```bash\n" + "\n".join(lines) + "\n```"


def listing(uploaded: Mapping[str, Facts]) -> str:
    """All files with size and hash: others in the repository do not belong to this adapter."""
    rows = [[f"`{path}`", files.size_text(facts["bytes"]), f"`{facts['sha256']}`"] for path, facts in uploaded.items()]
    return cards.table(["file", "size", "SHA-256"], rows) + "\n\nA file that is not listed here, or has another hash, was not measured."


def further_limits(run: Run, uploaded: Mapping[str, Facts]) -> str:
    tokenizer = base_model.load_tokenizer(run.settings.base_model)
    ollama = " No Ollama was run: its template was compared with the trained format by rendering it." if "Modelfile" in uploaded else ""
    return MORE_LIMITS.format(ollama=ollama, start=tokenizer.bos_token or "the start token")

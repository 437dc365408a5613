"""Small made-up corpora, and what many tests do with a run and its folder."""

from pathlib import Path

from mistral_lib.run import Run, files, params

TOPICS = ("tensor", "matrix", "kernel", "gradient", "vector", "index", "buffer", "token")


def rows(domain: str, count: int, first: int = 0) -> list[dict]:
    """Question and answer rows, all different, ten to a source document."""
    return [
        {
            "prompt": f"What does {domain}.{TOPICS[n % 8]}_{n} do?",
            "completion": f"It takes the {TOPICS[n % 8]} number {n} of {domain} and returns the {TOPICS[(n * 3 + 1) % 8]} that belongs to it.",
            "module": f"{domain}.part{n // 10}",
        }
        for n in range(first, first + count)
    ]


# On another corpus than the demo's: none of its documents, and twelve short steps.
ELSEWHERE = {"operatives_paths": [], "retention_paths": [], "domain_weights": {}, "max_tokens": 512, "max_steps": 12, "learning_rate": 2e-3,
             "micro_batch_size": 2, "blocks_per_step": 2, "checkpoint_every_steps": 4, "validate_every_steps": 4, "max_new_tokens": 48}  # fmt: skip


def short_run(**changes: object) -> params.Settings:
    """The settings of the demo, with some changed; on another corpus those of a few short steps."""
    elsewhere = ELSEWHERE if "corpus_paths" in changes else {}
    return params.Settings(**{**params.demo(), **elsewhere, **changes})


def deep_lines(levels: int = 1000) -> bytes:
    """A row whose `input` is nested too deep, which is rejected, and one that is deep only in a key that is not read, which is kept."""
    deep = b"[" * levels + b"1" + b"]" * levels
    read = b'{"instruction": "Sum it up", "input": %s, "output": "A long enough answer."}\n'
    return (read + b'{"prompt": "And this?", "completion": "It is a good enough answer.", "trace": %s}\n') % (deep, deep)


def twins() -> list[dict]:
    """Two clusters of repeated records, whose prompts differ in punctuation alone. In the first one only two prompts are too long for a
    block; in the second all prompts are."""
    words = ["tell", "me", "in", "a", "few", "sentences", "what", "this", "thing", "really", "is"]
    plain, long, longer = (
        " ".join(words),
        " . . . . . . . . . . . . . . . . . . . . ".join(words),
        " ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ".join(words),
    )
    one, two = (
        "It is the one thing that belongs to this and to no other.",
        "Whatever you ask for, ask for it twice and wait until it is there.",
    )
    asked = [(long, one, "a"), (longer, one, "b"), (plain, one, "c"), (f"{plain}?", one, "d"), (long, two, "a")]
    asked += [(plain, one, "c"), (longer, two, "e")]
    return [{"prompt": prompt, "completion": answer, "module": f"twin-{name}"} for prompt, answer, name in asked]


def other(run: Run, **changes: object) -> Run:
    """The same run, opened with some parameters changed."""
    return Run.open(run.settings.model_copy(update=changes))


def artefacts(run: Run) -> dict:
    """Hashes of all files of the data stage, and its report without the two figures that differ from run to run: seconds and
    peak_memory_mib."""
    report = files.read_json(run.folder / "data" / "report.json")
    hashed = {name: fact["sha256"] for name, fact in files.hashes(run.folder / "data", run.folder).items() if name != "data/report.json"}
    return {**hashed, "report": {key: value for key, value in report.items() if key not in ("seconds", "peak_memory_mib")}}


def files_with(folder: Path, *values: str) -> list[Path]:
    """The files below a folder that contain one of the values."""
    import pyarrow.parquet as pq

    def content(path: Path) -> bytes:
        return str(pq.read_table(path).to_pylist()).encode() if path.suffix == ".parquet" else path.read_bytes()

    return [path for path in sorted(folder.rglob("*")) if path.is_file() and any(value.encode() in content(path) for value in values)]

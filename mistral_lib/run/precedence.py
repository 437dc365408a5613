"""Which value of a parameter counts, if several places have one. Knows no files: it gets what they hold as mappings.

The demo's values are the demo's. With a corpus of one's own, a value of params/demo.yaml that nobody chose is replaced by the default.
`demo` is always the content of that file.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mistral_lib.run.settings import Settings, is_embedded

Values = Mapping[str, Any]
DEFAULTS: Values = Settings().model_dump()


@dataclass(frozen=True, slots=True)
class Combined:
    values: dict[str, Any]
    typed: dict[str, Any]  # values of the cell that count
    replaced: dict[str, Any]  # for other values of the cell: what counts in their place


# -- the demo's corpus, and one's own ---------------------------------------------------------------------------------


def is_demo(corpus_paths: Any) -> bool:
    """Whether a corpus is the demo's alone. False for anything that is no list of paths."""
    return isinstance(corpus_paths, list) and all(isinstance(path, str) and is_embedded(path) for path in corpus_paths)


def base(demo: Values, corpus_paths: Any) -> Values:
    """The values of a run in which nothing else was chosen: the demo's for its corpus, the defaults for one's own."""
    return demo if is_demo(corpus_paths) else DEFAULTS


def chosen(values: Values, demo: Values) -> dict[str, Any]:
    """The values that are not those of the base."""
    under = base(demo, values.get("corpus_paths"))
    return {name: value for name, value in values.items() if value != under.get(name)}


def taken(values: Values, corpus_paths: Any, demo: Values) -> dict[str, Any]:
    """What a file or run folder holds for a corpus: all of it, or only what was chosen if it was made for the other kind of corpus."""
    same = is_demo(values.get("corpus_paths")) == is_demo(corpus_paths)
    return dict(values) if same else chosen(values, demo)


def moved(values: Values, corpus_paths: Any, demo: Values) -> dict[str, Any]:
    """The values for another corpus: what was chosen stays, and the rest is that of the base."""
    return {**base(demo, corpus_paths), **taken(values, corpus_paths, demo), "corpus_paths": corpus_paths}


def checkpoint_interval(values: Values) -> int:
    """checkpoint_every_steps of a run whose checkpoint interval nobody chose: a run of few steps saves its first checkpoint within them."""
    steps, every = values["max_steps"], values["checkpoint_every_steps"]
    return steps if isinstance(steps, int) and isinstance(every, int) and 0 < steps < every else every


# -- a parameters cell over a file over a run folder ------------------------------------------------------------------


def over_file(cell: Values, injected: Collection[str], file: Values, record: Values, demo: Values) -> Combined:
    """A cell whose values count only if they were injected or are not the demo's. Others are replaced by the file's.

    record: what the run folder holds, if that is newer than the file. It counts for names that are not in the cell.
    """
    typed = {name: value for name, value in cell.items() if name in injected or value != demo.get(name)}
    others = cell.keys() - typed.keys()
    corpus = {**file, **record, **({"corpus_paths": file["corpus_paths"]} if "corpus_paths" in others else {}), **typed}["corpus_paths"]
    under = {**base(demo, corpus), **taken(file, corpus, demo)}
    values = {**under, **taken(record, corpus, demo), **{name: under[name] for name in others}, **typed, "corpus_paths": corpus}
    return _combined(values, cell, typed)


def over_record(cell: Values, injected: Collection[str], record: Values, demo: Values) -> Combined:
    """A cell without a file. With the demo's corpus all of it counts; with one's own, not what only the demo has.

    A value that is both the demo's and the default counts as it stands, so that one can go back to it.
    """
    corpus = _corpus(cell, injected, record, demo)
    ours = {name for name, value in demo.items() if value == DEFAULTS[name]}
    counts = cell if is_demo(corpus) else {n: v for n, v in cell.items() if n in injected or n in ours or v != demo.get(n)}
    typed = {name: value for name, value in counts.items() if name != "corpus_paths" or value == corpus}
    values = {**base(demo, corpus), **taken(record, corpus, demo), **typed, "corpus_paths": corpus}
    return _combined(values, cell, typed)


def _corpus(cell: Values, injected: Collection[str], record: Values, demo: Values) -> Any:
    """The corpus that was typed or injected; else that of the run folder; but the run of the demo has the cell's, which is the demo's."""
    given = cell.get("corpus_paths", demo["corpus_paths"])
    is_chosen = "corpus_paths" in injected or given != demo["corpus_paths"]
    if is_chosen or ("corpus_paths" in cell and cell.get("run_name") == demo["run_name"]):
        return given
    return record.get("corpus_paths", given)


def _combined(values: dict[str, Any], cell: Values, typed: dict[str, Any]) -> Combined:
    if "checkpoint_every_steps" not in typed:
        values["checkpoint_every_steps"] = checkpoint_interval(values)
    replaced = {name: values[name] for name in cell.keys() - typed.keys() if values[name] != cell[name]}
    return Combined(values, typed, replaced)

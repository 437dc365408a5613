"""One corpus with every container, row shape and defect of real corpora: each row has the right fate."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice, permutations
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_from_disk
from hypothesis import HealthCheck, given, settings, strategies

from mistral_lib.curation import splits
from mistral_lib.preparation import prepare
from mistral_lib.run import Run, files
from mistral_lib.run.folder import FORMAT
from tests.support.containers import DOCUMENTS, ROWS, STRUCTURED, json_lines
from tests.support.corpora import TOPICS, rows, short_run

Q, A = "How large is a block?", "A block holds max_tokens tokens, whatever happens."
SHAPES = {
    "text": {"text": f"{A} (text)"},
    "prompt_completion": {"prompt": Q, "completion": f"{A} (prompt)", "stray": {"deep": [1]}},
    "instruction": {"instruction": Q, "input": "", "output": f"{A} (instruction)", "history": [["Hello?", "Hello."]], "system": "Be exact."},
    "question_answer": {"question": Q, "answer": f"{A} (question)"},
    "messages": {"messages": [{"role": "system", "content": "Be exact."}, {"role": "user", "content": Q}, {"role": "assistant", "content": f"{A} (messages)"}]},
    "conversations": {"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": f"{A} (conversations)"}]},
    "content": {"title": "Blocks", "content": f"{A} (content)"},
    "data": {"data": {"name": "block", "says": f"{A} (data)"}},
    "preference": {"prompt": Q, "chosen": f"{A} (chosen)", "rejected": "I do not know that."},
}  # fmt: skip
GOOD = json.dumps({"question": Q, "answer": f"{A} %s"})
SECRET = "Xk29" + "vQ7m" + "Tz4p"
LICENSE = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software, to deal in it without restriction."
)
ANSWERS = [f"The {a} is what the {b} holds before the {c} is read." for a, b, c in islice(permutations(TOPICS, 3), 112)]
# file name → its bytes, and for each row the reason if it is rejected, otherwise its fate
DEFECTS: dict[str, tuple[bytes, list[str]]] = {
    "glued.jsonl": ((GOOD % "g1" + r"\n" + GOOD % "g2").encode(), ["kept", "kept"]),
    "not_json.jsonl": (b"this is no JSON\n" + (GOOD % "n").encode(), ["not_json", "kept"]),
    "torn.jsonl": ((GOOD % "t").encode() + b'\n{"prompt": "cut o', ["kept", "truncated_line"]),
    "crlf_bom.jsonl": (b"\xef\xbb\xbf" + (GOOD % "crlf").encode() + b"\r\n\r\n", ["kept"]),
    "latin1.jsonl": (b'{"text": "caf\xe9 with a wrong encoding"}\n', ["kept"]),
    "nul.jsonl": (b'{"text": "a\0b and some more text"}\n', ["nul_bytes"]),
    "empty.jsonl": (b"", ["empty_file"]),
    "strange.xyz": (b"anything", ["unknown_file_type"]),
    "torn.zip": (STRUCTURED["a.zip"]()[:40], ["unreadable"]),
    "scan.pdf": (DOCUMENTS["a.pdf"]()[:300], ["unreadable_pdf"]),
    "shapeless.jsonl": (b'{"colour": "blue"}\n{}\n[1]\n"word"\n', ["unknown_shape", "empty_row", "not_an_object", "not_an_object"]),
    "unanswered.jsonl": (json.dumps({"messages": [{"role": "user", "content": Q}]}).encode(), ["no_answer_at_the_end"]),
    "blank.jsonl": (b'{"text": "  "}\n', ["empty_text"]),
    "short.jsonl": (b'{"prompt": "Is it so?", "completion": "no"}\n', ["answer_too_short"]),
    "todo.jsonl": (b'{"prompt": "What is in a.pdf?", "completion": "Processed content from a.pdf"}\n', ["placeholder_answer"]),
    "html.jsonl": (json.dumps({"text": "<div><span class='a'></span><p></p></div>" * 9 + "x"}).encode(), ["mostly_html"]),
    "literal_newlines.jsonl": (json.dumps({"prompt": Q, "completion": r"First line.\nSecond line.\nThird line, unlike all."}).encode(), ["kept"]),
    "control.jsonl": (json.dumps({"prompt": Q, "completion": "Write </s> or [/INST] to end it, and mean the text."}).encode(), ["kept"]),
    "invisible.jsonl": (json.dumps({"text": "A\u00a0cafe\u0301 with a zero\u200bwidth blank, a BOM\ufeff and a soft\u00ad hyphen."}).encode(), ["kept"]),
    "chrome.jsonl": (json.dumps({"prompt": "What does the page say?", "completion": "Skip to main content. We use cookies: accept all cookies, or manage cookies."}).encode(), ["boilerplate"]),
    "license.jsonl": (json.dumps({"prompt": "What is in setup.py?", "completion": f"# {LICENSE}"}).encode(), ["boilerplate"]),
    "url.jsonl": (json.dumps({"text": f"Clone it from https://robot:{SECRET}@git.example.org/a.git and build it."}).encode(), ["kept"]),
    "assigned.jsonl": (json.dumps({"text": f"Before the start, set DB_PASSWORD={SECRET} in the file .env and load it."}).encode(), ["kept"]),
    "home_path.jsonl": (json.dumps({"text": "The log of it stands in /home/jgutierrez/logs/train.txt, a line a step."}).encode(), ["kept"]),
    "fences.jsonl": (json.dumps({"prompt": "How is it started?", "completion": "With these lines:\n```bash\nmake setup\nmake demo"}).encode(), ["kept"]),
    "long.jsonl": (json.dumps({"text": " ".join(f"Sentence {n} is unlike all the others." for n in range(300))}).encode(), ["kept"]),
    "many_answers.jsonl": (json_lines([{"prompt": "What of it?", "completion": answer} for answer in ANSWERS]), ["kept"] * 112),
    "metadata_only.jsonl": (json_lines([{"prompt": "What of it?", "completion": answer, "page": 7} for answer in ANSWERS[:2]]), ["duplicate"] * 2),
    "two_domains.jsonl": (json_lines([{"prompt": f"What of {d}?", "completion": f"{A} (domains)", "domain": d} for d in ("it", "that")]), ["kept", "kept"]),
    "key.jsonl": (json.dumps({"text": "-----BEGIN " + "PRIVATE KEY-----\nMIIEvQ" + "Ab1+" * 20 + "\n-----END " + "PRIVATE KEY-----\nKeep this one secret."}).encode(), ["kept"]),
}  # fmt: skip
# file name → the kept answer or text, once it is repaired and redacted
LEFT = {
    "literal_newlines.jsonl": "First line.\nSecond line.\nThird line, unlike all.",
    "invisible.jsonl": "A caf\u00e9 with a zerowidth blank, a BOM and a soft hyphen.",
    "control.jsonl": "Write </s> or [/INST] to end it, and mean the text.",
    "url.jsonl": "Clone it from https://<CREDENTIALS>@git.example.org/a.git and build it.",
    "assigned.jsonl": "Before the start, set DB_PASSWORD=<SECRET> in the file .env and load it.",
    "home_path.jsonl": "The log of it stands in /home/<USER>/logs/train.txt, a line a step.",
    "fences.jsonl": "With these lines:\n```bash\nmake setup\nmake demo",
    "key.jsonl": "<PRIVATE_KEY>\nKeep this one secret.",
}


def write(folder: Path, names: set[str] | None = None) -> None:
    """Write all files or those named, and always enough ordinary rows for three splits."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents():
        if names is None or name in names:
            (folder / name).write_bytes(data)
    files.write_json_lines(folder / "ordinary.jsonl", rows("ordinary", 150))


def contents() -> Iterator[tuple[str, bytes]]:
    yield from ((name, make()) for name, make in {**STRUCTURED, **DOCUMENTS}.items())
    yield from ((f"shape_{name}.jsonl", json.dumps(row).encode()) for name, row in SHAPES.items())
    yield from ((name, data) for name, (data, _) in DEFECTS.items())


NAMES = sorted(name for name, _ in contents())


def prepared(home: Path, tiny_model: str, names: set[str] | None = None) -> tuple[dict, list[dict]]:
    """The report and the ledger of a preparation of these files."""
    write(home / "corpora" / "kinds", names)
    run = Run.open(
        short_run(run_name="kinds", corpus_paths=["corpora/kinds"], base_model=tiny_model, max_tokens=256, shortest_answer=20,
                  max_validation_tokens=0, max_test_tokens=0, validation_share=0.2, test_share=0.2)
    )  # fmt: skip
    report = prepare.prepare(run)
    return report, pq.read_table(run.folder / "data" / "ledger.parquet").to_pylist()


def reconciled(report: dict, ledger: list[dict]) -> bool:
    dropped = sum(report["rejected"].values()) + report["duplicates_exact"] + report["duplicates_near"]
    fates = Counter(row["fate"] for row in ledger)
    return (
        report["records_read"] == sum(row["lines"] for row in ledger) == report["records_kept"] + dropped
        and sum(fates[split] for split in splits.SPLITS) == report["records_kept"]
        and len({row["source"] for row in ledger}) == len(ledger)
        and report["leaked_exact"] == report["leaked_near"] == 0
    )


def of(ledger: list[dict], name: str) -> list[dict]:
    return [row for row in ledger if row["source"].split("!")[0].split("#")[0].split(":")[0] == name]


def fate(row: dict) -> str:
    return row["reason"] if row["fate"] == "rejected" else "kept" if row["fate"] in splits.SPLITS else row["fate"]


def kept_texts(home: Path) -> dict[str, str]:
    """The text or answer of the last kept record of each file, as training has it."""
    kept = pq.read_table(home / "runs" / "kinds" / "data" / "records.parquet").to_pylist()
    return {row["source"].split(":")[0]: row["text"] or json.loads(row["messages"])[-1]["content"] for row in kept}


def test_every_container_shape_and_defect_has_its_fate(home: Path, tiny_model: str) -> None:
    report, ledger = prepared(home, tiny_model)
    assert reconciled(report, ledger)
    for name in STRUCTURED:
        assert len(of(ledger, name)) == len(ROWS), name
        assert {row["fate"] for row in of(ledger, name)} <= {*splits.SPLITS, "duplicate", "near_duplicate"}, name
    for name in SHAPES:
        assert [row["shape"] for row in of(ledger, f"shape_{name}.jsonl")] == [name]
    for name, (_, fates) in DEFECTS.items():
        assert [fate(row) for row in of(ledger, name)] == fates, name
    for name in DOCUMENTS:
        assert len(of(ledger, name)) == 1, name
    assert {name: text for name, text in kept_texts(home).items() if name in LEFT} == LEFT
    assert report["redacted"] == {"private_key": 1, "url_credentials": 1, "secret_assignment": 1, "home_path": 1}
    assert report["repairs"] == {"salvaged": 2, "chosen_of_preference": 1, "unescaped_newlines": 1, "normalized": 1}
    assert report["flags"] == {"control_strings": 1, "odd_code_fences": 1}
    assert of(ledger, "long.jsonl")[0]["tokens"] > 256 and report["tokens_lost_to_length"] == 0
    assert sum(report["windows"].values()) > report["records_kept"], "the long record is split into windows"


# digest of the prepared corpus, by run.FORMAT["data"]
PREPARED_TO = {6: "df47d0fe7240f300dc59c26988333443aea55be6cd563bf5a512e53a9bd44f07"}


def test_changed_results_need_a_new_format_number(home: Path, tiny_model: str) -> None:
    """Results of an earlier version of the library are reused while FORMAT is the same, so changed results need a new FORMAT."""
    prepared(home, tiny_model)
    data = home / "runs" / "kinds" / "data"
    tables = [pq.read_table(data / f"{name}.parquet").to_pylist() for name in ("ledger", "records")]
    blocks = [load_from_disk(data / split).to_list() for split in splits.SPLITS]
    found = files.digest([tables, blocks])
    assert PREPARED_TO.get(FORMAT["data"]) == found, (
        f"the result for the same corpus has changed ({found}): raise run.FORMAT['data'], so that earlier results count as stale, "
        "and write the new digest here"
    )


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=strategies.sets(strategies.sampled_from(NAMES), min_size=1, max_size=12))
def test_every_subset_reconciles(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, names: set[str]) -> None:
    home = tmp_path_factory.mktemp("subset")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRAL_WORKBOOK_HOME", str(home))
        assert reconciled(*prepared(home, tiny_model, names))

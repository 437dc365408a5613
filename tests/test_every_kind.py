"""One corpus that holds every container, row shape and defect that real corpora came with: each row has its right fate."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from mistral_lib import files, preparation, splits
from mistral_lib.run import Run
from mistral_lib.settings import Settings
from tests.conftest import rows
from tests.containers import DOCUMENTS, ROWS, STRUCTURED

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
# file name → its bytes, and what becomes of its rows: a reason, or "kept"
DEFECTS: dict[str, tuple[bytes, list[str]]] = {
    "glued.jsonl": ((GOOD % "g1" + r"\n" + GOOD % "g2").encode(), ["kept", "kept"]),
    "not_json.jsonl": (b"this is no JSON\n" + (GOOD % "n").encode(), ["not_json", "kept"]),
    "torn.jsonl": ((GOOD % "t").encode() + b'\n{"prompt": "cut o', ["kept", "truncated_line"]),
    "crlf_bom.jsonl": (b"\xef\xbb\xbf" + (GOOD % "crlf").encode() + b"\r\n\r\n", ["kept"]),
    "latin1.jsonl": (b'{"text": "caf\xe9 with a wrong encoding"}\n', ["not_utf8"]),
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
    "key.jsonl": (json.dumps({"text": "-----BEGIN " + "PRIVATE KEY-----\nMIIEvQ" + "Ab1+" * 20 + "\n-----END " + "PRIVATE KEY-----\nKeep this one secret."}).encode(), ["kept"]),
}  # fmt: skip


def write(folder: Path, names: set[str] | None = None) -> None:
    """All of it, or the named files; always with enough ordinary rows for three splits."""
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
        Settings(run_name="kinds", corpus_paths=["corpora/kinds"], operatives_paths=[], base_model=tiny_model, max_tokens=256,
                 max_validation_tokens=0, max_test_tokens=0, validation_share=0.2, test_share=0.2)
    )  # fmt: skip
    report = preparation.prepare(run)
    return report, pq.read_table(run.folder / "data" / "ledger.parquet").to_pylist()


def reconciled(report: dict, ledger: list[dict]) -> bool:
    dropped = sum(report["rejected"].values()) + report["duplicates_exact"] + report["duplicates_near"]
    fates = Counter(row["fate"] for row in ledger)
    return (
        report["records_read"] == len(ledger) == report["records_kept"] + dropped
        and sum(fates[split] for split in splits.SPLITS) == report["records_kept"]
        and len({row["source"] for row in ledger}) == len(ledger)
        and report["leaked_exact"] == report["leaked_near"] == 0
    )


def of(ledger: list[dict], name: str) -> list[dict]:
    return [row for row in ledger if row["source"].split("!")[0].split("#")[0].split(":")[0] == name]


def test_every_container_shape_and_defect_has_its_fate(home: Path, tiny_model: str) -> None:
    report, ledger = prepared(home, tiny_model)
    assert reconciled(report, ledger)
    for name in STRUCTURED:
        assert len(of(ledger, name)) == len(ROWS), name
        assert {row["fate"] for row in of(ledger, name)} <= {*splits.SPLITS, "duplicate", "near_duplicate"}, name
    for name in SHAPES:
        assert [row["shape"] for row in of(ledger, f"shape_{name}.jsonl")] == [name]
    for name, (_, fates) in DEFECTS.items():
        found = [row["reason"] if row["fate"] == "rejected" else "kept" for row in of(ledger, name)]
        assert found == fates, name
    for name in DOCUMENTS:
        assert len(of(ledger, name)) == 1, name
    assert report["redacted"]["private_key"] == 1 and report["repairs"]["salvaged"] == 2
    assert report["repairs"]["chosen_of_preference"] == 1 and report["repairs"]["unescaped_newlines"] == 1


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=strategies.sets(strategies.sampled_from(NAMES), min_size=1, max_size=12))
def test_every_subset_reconciles(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, names: set[str]) -> None:
    home = tmp_path_factory.mktemp("subset")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRAL_WORKBOOK_HOME", str(home))
        assert reconciled(*prepared(home, tiny_model, names))

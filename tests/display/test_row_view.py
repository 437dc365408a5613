"""The table of reasons and the graded rows: every row that was not kept is counted under its reason, and nothing shows a secret."""

import random
import re
import string

import orjson
import pyarrow.parquet as pq

from mistral_lib.corpus import sources
from mistral_lib.display import row_view
from mistral_lib.formats.rows import Row
from mistral_lib.model import base_model
from mistral_lib.preparation import prepare
from mistral_lib.run import Run, files

TOKEN = "gh" + "p_" + "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=36))


def test_every_dropped_row_is_counted_under_its_reason_with_an_example(settings, corpus) -> None:
    odd = [{"color": TOKEN}, {"prompt": "short?", "completion": "yes"}, {"prompt": "TODO?", "completion": f"short {TOKEN[:4]}"}]
    again = (corpus / "red.jsonl").read_bytes().splitlines()[0]
    files.write_bytes(corpus / "strange.jsonl", b"\n".join([*map(orjson.dumps, odd), again, b'{"prompt": "half']))
    run = Run.open(settings)
    report = prepare.prepare(run)
    ledger = pq.read_table(run.folder / "data" / "ledger.parquet").to_pandas()
    table = {line["reason"]: line for line in row_view.reasons_table(ledger, sources.of_settings(settings), settings)}
    expected = {**report["rejected"], "duplicate": report["duplicates_exact"], "near_duplicate": report["duplicates_near"]}
    assert {reason: line["rows"] for reason, line in table.items()} == {reason: count for reason, count in expected.items() if count}
    assert [line["rows"] for line in table.values()] == sorted((line["rows"] for line in table.values()), reverse=True)
    assert table["answer_too_short"]["its answer"] == "yes" and table["truncated_line"]["its answer"] == '{"prompt": "half'
    assert table["duplicate"]["for example"] == "strange.jsonl:4" and table["duplicate"]["which repeats"] == "red.jsonl:1"
    assert "color" in table["unknown_shape"]["its answer"] and not any(TOKEN in str(line) for line in table.values())


def test_rows_are_shown_as_graded_tokens_without_their_secrets(tiny_model: str) -> None:
    chat = [{"role": "user", "content": f"Is {TOKEN} the key?"}, {"role": "assistant", "content": "Yes, it is."}]
    shown = row_view.graded(base_model.load_tokenizer(tiny_model), [{"source": "red.jsonl:1", "messages": chat}] * 2)
    first, second = shown.plain.splitlines()
    assert first == second and re.fullmatch(r"red\.jsonl:1: \d+ of \d+ tokens graded", first)
    graded, everything = map(int, re.findall(r" (\d+)", first))
    assert shown.shown.count("background:#cdebc5") == 2 * graded and shown.shown.count("opacity:.65") == 2 * (everything - graded)
    assert TOKEN[8:20] not in re.sub("<[^>]+>", "", shown.shown) and row_view.graded(None, []).plain == "no chat"


def test_kinds_that_are_switched_on_are_not_shown_either(settings, corpus) -> None:
    address = ".".join(["81", "2", "69", "142"])
    row = Row("a.jsonl:1", {"prompt": "Which host?", "completion": f"It is {address}."})
    on = settings.model_copy(update={"more_personal_data": ["ip_address"]})
    assert address in row_view.raw_row(row, row_view.searched(settings)), "off by default"
    assert address not in row_view.raw_row(row, row_view.searched(on)) and "It is <" in row_view.raw_row(row, row_view.searched(on))

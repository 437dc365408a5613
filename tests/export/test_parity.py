"""Exported forms and served models against the probe, through llama.cpp: the adapter is found in every form, and each fault by its name."""

import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from mistral_lib.commands import claims
from mistral_lib.export import adapter_in_weights, endpoint_parity, export, parity, parity_verdict
from mistral_lib.export.parity import Comparison, Form
from mistral_lib.gguf_files import gguf_conversion, gguf_file, gguf_quantization
from mistral_lib.merging import merged_weights
from mistral_lib.model import base_model, likelihood, paired_answers
from mistral_lib.preparation.audit import WEIGHTS
from mistral_lib.run import Run, files
from mistral_lib.serving import llama_cpp
from tests.support import tiny_gguf
from tests.support.corpora import other

KEY = "a-key-of-the-tests"


@pytest.fixture(scope="module")
def comparison(exported: Run) -> Comparison:
    return Comparison(exported)


@pytest.fixture(scope="module")
def found(exported: Run) -> dict[str, Any]:
    """parity/result.json."""
    return parity.parity(exported)


@pytest.fixture(scope="module")
def other_adapter(exported: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter trained on the same data, with as many steps, from another seed."""
    from datasets import load_from_disk
    from transformers import set_seed

    settings = paired_answers.trained_settings(exported)
    set_seed(7)
    model = base_model.attach_lora(base_model.load_base(settings), settings).train()
    blocks = load_from_disk(exported.folder / "data" / "train")
    order = torch.randperm(len(blocks)).tolist()
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    for step in range(settings.max_steps):
        rows = [blocks[place] for place in (order * 2)[2 * step : 2 * step + 2]]
        batch = {name: torch.tensor([row[name] for row in rows]) for name in likelihood.COLUMNS}
        likelihood.training_losses(model, batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("other") / "adapter"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def other_merged(exported: Run, other_adapter: Path) -> Path:
    base = base_model.folder(exported.settings.base_model)
    merged_weights.merge(base, other_adapter, other_adapter.parent / "merged", "16bit")
    return other_adapter.parent / "merged"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(0o600)
    return path


def alias(run: Run, form: str) -> str:
    return f"{run.folder.name}-{form}-{files.sha256(run.folder / 'training' / 'adapter' / WEIGHTS)[:12]}"


def served(run: Run, gguf: Path, form: str, lora: Path | None = None) -> llama_cpp.RunningServer:
    """A server under the alias of a form of the run's adapter, whatever the file is."""
    return llama_cpp.start(gguf, lora=lora, alias=alias(run, form), key=KEY, threads=1, context_tokens=512)


def judged(comparison: Comparison, form: str, file: Path, **more: Any) -> parity_verdict.Finding:
    return comparison.form(Form(form, file, **more), [])


# -- the adapter is found -----------------------------------------------------------------------------------------------


def test_every_exported_form_is_the_adapter(exported: Run, found: dict[str, Any]) -> None:
    outcomes = {one["form"]: one["outcome"] for one in found["findings"]}
    assert found["passed"] and list(outcomes) == ["merged", "f16", "q8_0", "lora_gguf"]
    assert set(outcomes.values()) == {"same"}
    for one in found["findings"]:
        evidence = one["evidence"]
        assert one["kept"] == pytest.approx(1, abs=0.02) and evidence["likelihood"]["unexplained"] < 0.01
        assert evidence["in_weights"]["value"] == pytest.approx(1, abs=0.02)
        assert evidence["prompts"] == {"equal": found["records"], "of": found["records"], "first_difference": ""}
        assert evidence["tokens_per_second"] > 0
    assert found["records"] == 12 and found["gains"]["16bit"]["low"] > 0
    assert exported.status("parity") == "complete" and exported.entry("parity")["figures"]["q8_0"] == "same"


def test_an_unchanged_parity_is_not_measured_again(exported: Run, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "Comparison", None)  # measuring again would fail
    assert parity.parity(exported) == found


def test_what_is_served_is_the_adapter(exported: Run, found: dict[str, Any], key_file: Path) -> None:
    with served(exported, exported.folder / "export" / export.file_of("q8_0"), "q8_0") as server:
        result = parity.parity(exported, server.url, key_file)
        [one] = result["findings"]
        text = json.dumps({"claims": [
            {"kind": "endpoint", "url": server.url, "run": "small", "key_file": str(key_file), "alias": alias(exported, "q8_0")},
            {"kind": "endpoint", "url": server.url, "key_file": str(key_file)},
            {"kind": "endpoint", "url": server.url, "run": "small", "key_file": str(key_file), "alias": "another-model"},
        ]})  # fmt: skip
        files.write_text(key_file.parent / "claims.yaml", text)
        checked = claims.check(key_file.parent / "claims.yaml")
    assert result["passed"] and one["outcome"] == "same" and one["form"] == "q8_0"
    assert one["evidence"]["in_weights"]["value"] == pytest.approx(1, abs=0.02), (
        "it answers as the file does whose weights were looked into"
    )
    assert one["evidence"]["alias"] == alias(exported, "q8_0")
    assert [claim.status for claim in checked] == ["verified", "verified", "refuted"]
    assert "claimed another-model" in checked[2].reason and KEY not in claims.text(checked)
    lines = (exported.folder / endpoint_parity.ENDPOINTS).read_text()
    assert one["sentence"] in lines and KEY not in lines


# -- and every fault ----------------------------------------------------------------------------------------------------


def test_the_base_model_in_place_of_the_merged_one_is_found(exported: Run, comparison: Comparison) -> None:
    found = judged(comparison, "merged", base_model.folder(exported.settings.base_model))
    assert found.outcome == "not this adapter" and not found.passed
    assert found.evidence["in_weights"]["value"] == pytest.approx(0, abs=0.01) and "its weights hold 0%" in found.sentence


def test_a_server_without_the_adapter_is_found_under_its_alias(exported: Run, found: dict[str, Any], key_file: Path) -> None:
    """The base model, served as if the adapter were applied."""
    with served(exported, exported.folder / "export" / export.BASE, "lora_gguf") as server:
        one = endpoint_parity.check_url(exported, server.url, key_file)
        files.write_text(key_file.parent / "c.yaml", json.dumps({"claims": [
            {"kind": "endpoint", "url": server.url, "run": "small", "key_file": str(key_file)}
        ]}))  # fmt: skip
        [claim] = claims.check(key_file.parent / "c.yaml")
    assert one.form == "lora_gguf" and one.outcome == "not this adapter" and not one.passed
    assert "it answers as the base model does" in one.sentence and one.evidence["likelihood"]["effect"] == pytest.approx(0, abs=0.05)
    assert claim.status == "refuted" and claim.reason.startswith("not this adapter")


def test_another_adapter_of_the_same_data_is_found_in_a_file(exported: Run, comparison: Comparison, other_merged: Path) -> None:
    found = judged(comparison, "merged", other_merged)
    assert found.outcome == "not this adapter" and found.evidence["in_weights"]["value"] < 0.5
    f16, q8 = other_merged.parent / "f16.gguf", other_merged.parent / "q8.gguf"
    gguf_conversion.convert(other_merged, f16)
    gguf_quantization.quantize(f16, q8, "q8_0")
    found = judged(comparison, "q8_0", q8)
    assert found.outcome == "not this adapter" and found.evidence["in_weights"]["value"] < 0.5


def test_another_adapter_of_the_same_data_is_found_at_an_address(
    exported: Run, comparison: Comparison, other_adapter: Path, key_file: Path
) -> None:
    """Its answers alone are looked at: it gains on other tokens."""
    lora = other_adapter.parent / "lora.gguf"
    base = exported.folder / "export" / export.BASE
    gguf_conversion.convert_lora(other_adapter, base_model.folder(exported.settings.base_model), lora)
    with served(exported, base, "lora_gguf", lora) as server:
        one = endpoint_parity.check_url(exported, server.url, key_file)
    assert one.outcome == "not this adapter" and one.evidence["in_weights"] is None
    assert one.evidence["likelihood"]["effect"] > 0.5, "it is an adapter that gains, and not this one"
    found = judged(comparison, "lora_gguf", lora, base=base)
    assert found.outcome == "not this adapter" and found.evidence["in_weights"]["value"] < 0.5


def with_metadata(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of an F16 GGUF file, as float32, with other metadata."""
    header = gguf_file.read(source, arrays=True)
    metadata = {**header.metadata, **{key: replace(header.metadata[key], value=value) for key, value in changes.items()}}
    tiny_gguf.put(target, metadata, {tensor.name: gguf_file.rows(header, tensor) for tensor in header.tensors})
    return target


def test_a_second_start_token_is_found(exported: Run, comparison: Comparison, tmp_path: Path) -> None:
    """The template writes a start token before the one that it has always written."""
    f16 = exported.folder / "export" / export.file_of("f16")
    template = gguf_file.value(gguf_file.read(f16), gguf_file.TEMPLATE)
    twice = with_metadata(f16, tmp_path / "twice.gguf", **{gguf_file.TEMPLATE: "<|im_start|>" + template})
    found = judged(comparison, "f16", twice)
    assert found.outcome == "other template" and "twice" in found.sentence and not found.passed
    assert found.evidence["likelihood"]["unexplained"] < 0.01, "the weights are right"
    added = with_metadata(f16, tmp_path / "added.gguf", **{"tokenizer.ggml.add_bos_token": True})
    assert judged(comparison, "f16", added).outcome == "same", "llama.cpp leaves out the one that it adds"


def test_another_template_is_found(exported: Run, comparison: Comparison, tmp_path: Path) -> None:
    foreign = "{% for message in messages %}[INST] {{ message['content'] }} [/INST]{% endfor %}"
    changed = with_metadata(
        exported.folder / "export" / export.file_of("f16"), tmp_path / "foreign.gguf", **{"tokenizer.chat_template": foreign}
    )
    found = judged(comparison, "f16", changed)
    assert found.outcome == "other template" and "[INST]" in found.sentence and "from token 0 on" in found.sentence


def test_a_file_that_was_cut_short_is_damaged(exported: Run, comparison: Comparison, tmp_path: Path) -> None:
    whole = exported.folder / "export" / export.file_of("q8_0")
    (tmp_path / "cut.gguf").write_bytes(whole.read_bytes()[:-10_000])
    found = judged(comparison, "q8_0", tmp_path / "cut.gguf")
    assert found.outcome == "damaged" and "incomplete" in found.sentence and not found.passed
    assert judged(comparison, "q8_0", tmp_path / "none.gguf").sentence.startswith("none.gguf is missing")
    shutil.copytree(exported.folder / "export" / "merged", tmp_path / "merged")
    weights = tmp_path / "merged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    found = judged(comparison, "merged", tmp_path / "merged")
    assert found.outcome == "damaged" and "cut short" in found.sentence


def test_a_file_that_was_altered_since_the_export_is_damaged(exported: Run, comparison: Comparison) -> None:
    name = f"export/{export.file_of('q8_0')}"
    found = comparison.form(Form("q8_0", exported.folder / name), [f"{name} was altered"])
    assert found.outcome == "damaged" and "was altered since it was exported" in found.sentence


def test_a_wrong_key_and_a_dead_port_are_no_verdict(exported: Run, tmp_path: Path, key_file: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("another-key-of-the-tests")
    wrong.chmod(0o600)
    with served(exported, exported.folder / "export" / export.BASE, "q8_0") as server:
        refused = endpoint_parity.check_url(exported, server.url, wrong)
        without = endpoint_parity.check_url(exported, server.url)
    dead = endpoint_parity.check_url(exported, server.url, key_file)
    assert [one.outcome for one in (refused, without, dead)] == ["wrong key", "wrong key", "no answer"]
    assert not any(one.passed for one in (refused, without, dead)) and "another-key" not in str(refused)


class Loading(BaseHTTPRequestHandler):
    """Answers as llama.cpp does while it loads a model."""

    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()
        self.wfile.write(b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}')

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def loading() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Loading) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_is_still_loading_is_no_verdict(exported: Run, key_file: Path) -> None:
    with loading() as url:
        one = endpoint_parity.check_url(exported, url, key_file)
    assert one.outcome == "loading" and not one.passed and re.search("still loading", one.sentence)


def test_a_server_that_cannot_start_is_no_answer(exported: Run, comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ports that are tried are taken."""
    from mistral_lib.serving import server_process

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(server_process, "FIRST_PORT", taken.getsockname()[1])
        monkeypatch.setattr(server_process, "free_port", lambda: server_process.require_free(taken.getsockname()[1]))
        found = judged(comparison, "q8_0", exported.folder / "export" / export.file_of("q8_0"))
    assert found.outcome == "no answer" and "in use" in found.sentence


def test_the_probe_of_an_earlier_adapter_is_refused(exported: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(exported.folder.parents[1], tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("MISTRAL_WORKBOOK_HOME", str(tmp_path))
    run = Run.existing(tmp_path / "runs" / "small")
    place = run.folder / "training" / "adapter" / WEIGHTS
    place.write_bytes(place.read_bytes() + b" ")
    with pytest.raises(RuntimeError, match="altered"):
        parity.parity(run)
    run = other(run, export_forms=[])
    with pytest.raises(RuntimeError):
        parity.parity(run)


# -- what is in the weights ---------------------------------------------------------------------------------------------


def test_the_share_in_the_weights_does_not_depend_on_rounding(exported: Run, other_adapter: Path, tmp_path: Path) -> None:
    base, adapter = base_model.folder(exported.settings.base_model), exported.folder / "training" / "adapter"
    f16 = exported.folder / "export" / export.file_of("f16")
    gguf_quantization.quantize(f16, tmp_path / "q4.gguf", "q4_k_m")
    nf4 = tmp_path / "nf4"
    merged_weights.merge(base, adapter, nf4, "nf4")
    for form in (exported.folder / "export" / "merged", f16, tmp_path / "q4.gguf", nf4):
        assert adapter_in_weights.in_model(base, adapter, form).value == pytest.approx(1, abs=0.1), form.name
        assert adapter_in_weights.in_model(base, other_adapter, form).value < 0.5, form.name
    assert adapter_in_weights.in_model(base, adapter, exported.folder / "export" / export.BASE).value == pytest.approx(0, abs=0.02)
    lora = exported.folder / "export" / export.LORA
    assert adapter_in_weights.in_lora_gguf(base, adapter, lora).value == pytest.approx(1, abs=1e-3)
    assert adapter_in_weights.in_lora_gguf(base, other_adapter, lora).value < 0.5


def test_a_file_without_an_adapted_weight_cannot_be_looked_into(exported: Run, tmp_path: Path) -> None:
    base, adapter = base_model.folder(exported.settings.base_model), exported.folder / "training" / "adapter"
    with pytest.raises(ValueError, match="which the adapter changes"):
        adapter_in_weights.in_model(base, adapter, exported.folder / "export" / export.LORA)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="which the adapter changes"):
        adapter_in_weights.in_model(base, adapter, tmp_path / "empty")

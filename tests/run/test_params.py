"""Parameters: what is accepted, what is refused and with which message, and that every committed file is valid."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from mistral_lib.run import Run, current_file, files, parameter_faults, params, settings
from mistral_lib.run import paths as places
from mistral_lib.run.params import ParameterError
from mistral_lib.run.settings import Settings
from tests.support.corpora import short_run

FILES = sorted(p for p in places.params().glob("*.yaml") if p.name not in params.OTHER_FILES)


OF_THE_DEMO = ("operatives_paths", "retention_paths", "group_key", "max_steps", "learning_rate", "epochs", "sample_count", "max_new_tokens",
               "max_test_tokens", "max_probe_tokens", "checkpoint_every_steps")  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_file_has_each_parameter_with_its_meaning(path: Path) -> None:
    loaded = params.load(path)
    body = "".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("#"))
    assert body == params.to_yaml(loaded)


def test_the_defaults_and_the_files_for_ones_own_corpus_have_nothing_of_the_demo() -> None:
    demo = params.load(places.params() / "demo.yaml")
    assert params.load(places.params() / "own_corpus.yaml") == Settings(run_name="mine", corpus_paths=["corpora/mine"])
    for one in (Settings(), *(params.load(places.params() / f"{name}_mistral_7b.yaml") for name in ("g4dn", "g5"))):
        for name in OF_THE_DEMO:
            assert getattr(one, name) != getattr(demo, name), name


def test_gpu_files_choose_a_compute_type_that_their_gpu_supports() -> None:
    machines = params.instances()
    for path in FILES:
        settings = params.load(path)
        assert settings.dtype in ("auto", machines[settings.instance]["dtype"])


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ParameterError, match=r"mine\.yaml: unknown parameter 'lerning_rate'; did you mean 'learning_rate'\?"):
        params.validate({"lerning_rate": 1e-4}, "mine.yaml")


def test_all_faults_are_named_at_once() -> None:
    bad = {"max_steps": "many", "seed": True, "micro_batch_size": 0, "instance": "g5.xlarg", "validation_share": 0.45, "test_share": 0.45}
    with pytest.raises(ParameterError) as caught:
        params.validate(bad, "mine.yaml")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("mine.yaml: ") for line in lines)
    for key in (
        "max_steps = 'many'",
        "seed = True",
        "micro_batch_size = 0",
        "unknown instance 'g5.xlarg'; did you",
        "validation_share + test_share",
    ):
        assert sum(key in line for line in lines) == 1


def test_a_number_that_yaml_takes_for_text_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("learning_rate: 2e-4\n")
    assert params.load(path).learning_rate == 2e-4


@pytest.mark.parametrize(
    ("text", "words"),
    [("max_steps: [", "not valid YAML"), ("- a\n- b\n", "found list"), ("quantization: off\n", "true/false is not a value")],
)
def test_a_broken_file_is_explained(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=words):
        params.load(path)


def test_off_is_a_value_of_a_check_although_yaml_reads_it_as_false(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("secrets: off\nsalvage: no\nstrict: on\n")
    got = params.load(path, ["refusal=off", "low_script_share=false"])
    assert (got.secrets, got.refusal, got.low_script_share, got.salvage, got.strict) == ("off", "off", "off", False, True)
    assert params.validate({"personal_data": False}).personal_data == "off", "as papermill reads a file"
    for word in ("on", "yes", "no", "true"):
        with pytest.raises(
            ParameterError, match=r"refusal = .*true/false is not a value for this key.*quote them.*; expected reject, flag, off"
        ):
            params.load(path, [f"refusal={word}"])
    with pytest.raises(ParameterError, match=r"max_steps = False: .*true/false is not a value"):
        params.load(path, ["max_steps=off"])


def test_a_key_that_yaml_does_not_read_as_text_is_reported_with_the_other_faults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("on: x\n7: y\nnull: z\nmax_steps: many\n")
    with pytest.raises(ParameterError) as caught:
        params.load(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4 and all(any(f"mine.yaml: {key} is no parameter name" in line for line in lines) for key in ("True", "7", "None"))
    assert "YAML reads on, off, yes and no as true/false" in lines[0] and "max_steps = 'many'" in lines[3]


@pytest.mark.parametrize("text", ["epochs: .inf", "domain_weights: {red: .nan}", "max_retention_loss: .inf", "max_hours: .nan"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, text: str) -> None:
    """An infinite limit has no effect, and a share of NaN passes every check of its range."""
    path = tmp_path / "mine.yaml"
    path.write_text(text + "\n")
    with pytest.raises(ParameterError, match=rf"mine\.yaml: {text.split(':')[0]} = (inf|nan): Input should be a finite number"):
        params.load(path)


def test_the_error_for_a_missing_file_names_the_existing_ones() -> None:
    with pytest.raises(ParameterError, match=r"demo\.yaml"):
        params.load("params/dmeo.yaml")


@pytest.mark.parametrize(
    "bad", [{"max_test_tokens": 100}, {"max_steps": 3, "checkpoint_every_steps": 4}, {"run_name": "../other"}, {"corpus_paths": []}]
)
def test_contradictions_and_dangerous_names_are_refused(bad: dict) -> None:
    with pytest.raises(ParameterError, match=next(reversed(bad))):
        params.validate(bad)


def test_what_the_plan_chooses_may_be_auto() -> None:
    auto = dict.fromkeys(settings.FITTED, "auto")
    got = params.validate(auto)
    assert got.open_choices() == list(settings.FITTED) and params.validate(yaml.safe_load(params.to_yaml(got))) == got
    assert params.validate({"activation_checkpointing": 3, "micro_batch_size": "2"}).open_choices() == []
    for value in (True, False, 2):
        assert params.validate({"activation_checkpointing": value}).activation_checkpointing is value
    assert settings.limits("micro_batch_size") == "auto or a whole number, at least 1"
    assert [settings.layers_recomputed(level) for level in (False, 4, 3, 2, True, "auto")] == [
        "none", "every 4th", "every 3rd", "every 2nd", "all", "auto",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"micro_batch_size": "atuo"}, r"micro_batch_size = 'atuo': expected auto or a whole number, at least 1 — "),
        ({"activation_checkpointing": -1}, r"activation_checkpointing = -1: expected auto or true or false or a whole number, at least 1"),
        ({"micro_batch_size": 3, "gradient_accumulation_steps": "auto"}, "micro_batch_size = 3 does not divide blocks_per_step = 8"),
        (
            {"micro_batch_size": "auto", "gradient_accumulation_steps": 16},
            "gradient_accumulation_steps = 16 does not divide blocks_per_step",
        ),
        ({"blocks_per_step": 0}, "blocks_per_step = 0"),
    ],
)
def test_impossible_choices_are_refused_once(bad: dict, words: str) -> None:
    with pytest.raises(ParameterError, match=words) as caught:
        params.validate(bad)
    assert len(str(caught.value).splitlines()) == 1


def test_every_parameter_has_a_meaning_and_a_stage() -> None:
    for name in Settings.names():
        assert params.meaning(name)
        assert set(settings.stages_of(name)) <= set(settings.STAGES)
        assert settings.stages_of(name) or name in ("run_name", "require_ship", "report_to", "engine", "ray_address", "shared_folder")


def test_a_parameter_keeps_the_work_of_a_stage_that_it_influences() -> None:
    for stage in settings.STAGES:
        kept, used = settings.keeping_work(stage), Settings().work_depends_on(stage)
        assert kept | set(used) == set(Settings().stage(stage)) and not kept & set(used)
    assert all(field.json_schema_extra["keeps"] in ("", *settings.STAGES) for field in Settings.model_fields.values())


def test_a_notebook_overrides_the_run_folder_which_overrides_the_defaults(home: Path) -> None:
    recorded = Settings(run_name="mine", max_tokens=64, learning_rate=1e-4)
    (home / "runs" / "mine").mkdir(parents=True)
    (home / "runs" / "mine" / "params.yaml").write_text(params.to_yaml(recorded))
    cell = 'run_name = "mine"\nlearning_rate = 3e-4'
    got = params.from_notebook({"run_name": "mine", "learning_rate": 3e-4, "In": ["", cell]})
    assert (got.max_tokens, got.learning_rate, got.seed) == (64, 3e-4, 42)


def test_a_notebook_refuses_a_name_that_papermill_only_warns_about(home: Path) -> None:
    names = {"run_name": "demo", "lerning_rate": 1e-4, "rows": 5}
    with pytest.raises(ParameterError, match="did you mean 'learning_rate'"):
        params.from_notebook({**names, "In": ["# Parameters\nlerning_rate = 0.0001\n", "rows = len([1])"]})


def form_saves(settings: Settings) -> Path:
    """Save settings as the form of notebook 00 does."""
    path = places.runs() / f"{settings.run_name}.yaml"
    params.save(settings, path, replace=True)
    current_file.write(path)
    return path


def opened(capsys: pytest.CaptureFixture, cell: str, injected: str = "") -> tuple[Settings, str]:
    """The settings of a notebook with this parameters cell, and what it prints about them, in one line."""
    names: dict = {"In": ["", cell, *([f"# Parameters\n{injected}\n"] if injected else [])]}
    exec(cell + "\n" + injected, {}, names)
    return params.from_notebook(names), " ".join(capsys.readouterr().out.split())


CELL = 'params_file = ""\nrun_name = "demo"\nmax_tokens = 256\nlora_rank = 16'


def test_the_last_saved_file_replaces_a_cells_defaults_and_is_named(home: Path, capsys: pytest.CaptureFixture) -> None:
    assert opened(capsys, CELL) == (short_run(), ""), "no file is saved, so nothing is printed"
    form_saves(Settings(run_name="mine", max_tokens=512, lora_rank=8, epochs=3))
    got, text = opened(capsys, CELL)
    assert (got.run_name, got.max_tokens, got.lora_rank, got.epochs) == ("mine", 512, 8, 3)
    assert "runs/mine.yaml" in text and "max_tokens = 512" in text and "Typed in this cell" not in text
    got, text = opened(capsys, CELL.replace("16", "32"))
    assert (got.max_tokens, got.lora_rank) == (512, 32) and "stronger than the file: lora_rank = 32." in text
    assert opened(capsys, CELL.replace('""', '"none"')) == (short_run(), ""), "the saved file can be ignored"
    got, text = opened(capsys, CELL.replace('""', '"params/quick.yaml"'))
    assert got == params.load(places.params() / "quick.yaml") and "params/quick.yaml" in text


def test_a_file_is_found_from_any_directory(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    form_saves(Settings(run_name="mine", max_tokens=512))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert params.load("runs/mine.yaml").max_tokens == 512, "as the form prints the command"
    assert params.load("params/quick.yaml") == params.load(places.params() / "quick.yaml")


def test_a_typed_run_name_uses_the_file_of_that_run_or_none(home: Path, capsys: pytest.CaptureFixture) -> None:
    form_saves(Settings(run_name="mine", max_tokens=512))
    form_saves(Settings(run_name="later", max_tokens=128))
    assert opened(capsys, CELL.replace("demo", "mine"))[0].max_tokens == 512
    assert opened(capsys, CELL.replace("demo", "new")) == (short_run(run_name="new"), "")


def test_a_batch_run_looks_for_no_saved_file(home: Path, capsys: pytest.CaptureFixture) -> None:
    form_saves(Settings(run_name="mine", max_tokens=512))
    assert opened(capsys, CELL, "lora_rank = 8") == (short_run(lora_rank=8), "")
    got, _ = opened(capsys, CELL, 'params_file = "runs/mine.yaml"\nlora_rank = 16')
    assert (got.max_tokens, got.lora_rank) == (512, 16), (
        "the file that it names is used; values from papermill win, even if they equal the default"
    )


def test_a_value_typed_in_an_earlier_notebook_counts_until_the_form_saves_again(home: Path, capsys: pytest.CaptureFixture) -> None:
    saved = Settings(run_name="mine", max_tokens=512)
    record = home / "runs" / "mine" / "params.yaml"
    files.write_text(record, params.to_yaml(saved.model_copy(update={"near_duplicate_threshold": 0.9})))
    form_saves(saved)
    assert opened(capsys, CELL)[0].near_duplicate_threshold == 0.8, "the file saved later is used"
    record.write_text(params.to_yaml(saved.model_copy(update={"near_duplicate_threshold": 0.7})))
    assert opened(capsys, CELL)[0].near_duplicate_threshold == 0.7, "typed in notebook 02, used in notebook 03"
    os.utime(record, (0, 0))
    assert opened(capsys, CELL)[0].near_duplicate_threshold == 0.7, "whatever the time of the file is"
    form_saves(saved)
    assert opened(capsys, CELL)[0].near_duplicate_threshold == 0.8
    record.write_text(params.to_yaml(saved.model_copy(update={"near_duplicate_threshold": 0.7})))
    (home / "runs" / "mine.yaml").write_text(params.to_yaml(saved.model_copy(update={"near_duplicate_threshold": 0.6})))
    assert opened(capsys, CELL)[0].near_duplicate_threshold == 0.6, "a file that was edited after the form saved it is used"


def test_the_file_that_the_form_saved_last_counts_and_not_the_newest(home: Path, capsys: pytest.CaptureFixture) -> None:
    newer = form_saves(Settings(run_name="newer", max_tokens=128))
    last = form_saves(Settings(run_name="last", max_tokens=512))
    os.utime(last, (1, 1))
    params.save(Settings(run_name="copied", max_tokens=64), home / "runs" / "copied.yaml")
    got, text = opened(capsys, CELL)
    assert (got.run_name, got.max_tokens) == ("last", 512) and "runs/last.yaml" in text and newer.stat().st_mtime > 1
    last.unlink()
    with pytest.raises(ParameterError, match=r'runs/last\.yaml is missing; the form of notebook 00 saved it last.*params_file = "none"'):
        opened(capsys, CELL)
    assert opened(capsys, CELL.replace('""', '"none"')) == (short_run(), "")
    assert opened(capsys, CELL, "lora_rank = 8") == (short_run(lora_rank=8), ""), "a batch run does not need the file"


def notebook_cell(number: str, **typed: object) -> str:
    """The parameters cell of a notebook, with some values typed into it."""
    cells = nbformat.read(next(places.notebooks().glob(f"{number}_*.ipynb")), as_version=4).cells
    lines = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])).splitlines()
    kept = [line for line in lines if line.split(" = ")[0] not in typed]
    return "\n".join([*kept, *(f"{name} = {value!r}" for name, value in typed.items())])


MINE = {"run_name": "mine", "corpus_paths": ["corpora/mine"]}


@pytest.mark.parametrize("number", ["00", "02", "03", "04"])
def test_a_corpus_typed_into_a_cell_gets_no_value_of_the_demo(home: Path, capsys: pytest.CaptureFixture, number: str) -> None:
    got, text = opened(capsys, notebook_cell(number, **MINE))
    assert got == Settings(**MINE)
    expected = {"00": "max_steps = 0 (not 40)", "02": "group_key = '' (not 'module')", "03": "learning_rate = 0.0002 (not 0.0005)"}
    assert "values of the demo in this cell do not count" in text and expected.get(number, "max_new_tokens = 256 (not 64)") in text
    got, _ = opened(capsys, notebook_cell(number, **MINE, seed=7, lora_rank=8))
    assert got == Settings(**MINE, seed=7, lora_rank=8), "what is typed counts"
    assert opened(capsys, notebook_cell(number)) == (short_run(), ""), "the demo's cell is the demo"


@pytest.mark.parametrize("number", ["00", "02", "03", "04"])
def test_a_corpus_injected_by_papermill_gets_no_value_of_the_demo(home: Path, capsys: pytest.CaptureFixture, number: str) -> None:
    assert opened(capsys, notebook_cell(number), "\n".join(f"{n} = {v!r}" for n, v in MINE.items()))[0] == Settings(**MINE)
    injected = "\n".join(f"{name} = {value!r}" for name, value in {**MINE, "max_steps": 40, "checkpoint_every_steps": 10}.items())
    got, _ = opened(capsys, notebook_cell(number), injected)
    assert got == Settings(**MINE, max_steps=40, checkpoint_every_steps=10), "an injected value counts, even if it is the demo's"


def test_the_corpus_of_a_run_folder_counts_as_ones_own(home: Path, capsys: pytest.CaptureFixture) -> None:
    """Typed in 00, the corpus is still that of the run in the notebooks whose cells do not have it, or still have the demo's."""
    recorded = Settings(**MINE, operatives_paths=["corpora/guides"], max_steps=20, checkpoint_every_steps=20, seed=7)
    files.write_text(home / "runs" / "mine" / "params.yaml", params.to_yaml(recorded))
    for number in ("01", "03", "04"):
        assert opened(capsys, notebook_cell(number, run_name="mine"))[0] == recorded, number
    assert opened(capsys, notebook_cell("02", run_name="mine"))[0].seed == 42, "both the demo's and the default: one can go back to it"
    got, text = opened(capsys, notebook_cell("02", run_name="mine"))
    assert got.corpus_paths == ["corpora/mine"] and got.operatives_paths == ["corpora/guides"] and "corpus_paths = ['corpora/mine']" in text


def test_the_run_folder_of_the_demo_lends_ones_own_corpus_nothing_of_the_demo(home: Path, capsys: pytest.CaptureFixture) -> None:
    """The person has run the demo, and then types a corpus without another run_name."""
    files.write_text(home / "runs" / "demo" / "params.yaml", params.to_yaml(short_run(lora_rank=8)))
    got, _ = opened(capsys, notebook_cell("00", corpus_paths=["corpora/mine"]))
    assert got == Settings(corpus_paths=["corpora/mine"], lora_rank=8), "but what was chosen there stays"
    files.write_text(home / "runs" / "demo" / "params.yaml", params.to_yaml(Settings(corpus_paths=["corpora/mine"], lora_rank=8)))
    assert opened(capsys, notebook_cell("00"))[0] == short_run(lora_rank=8), "and back: the demo is not trained with one's own values"


def test_a_corpus_typed_over_the_file_of_the_demo_gets_no_value_of_the_demo(home: Path, capsys: pytest.CaptureFixture) -> None:
    form_saves(short_run(lora_rank=8))
    got, text = opened(capsys, notebook_cell("03"))
    assert got == short_run(lora_rank=8)
    got, text = opened(capsys, notebook_cell("00", corpus_paths=["corpora/mine"]))
    assert got == Settings(corpus_paths=["corpora/mine"], lora_rank=8) and "stronger than the file: corpus_paths" in text


def test_a_file_for_ones_own_corpus_replaces_all_of_the_demo(home: Path, capsys: pytest.CaptureFixture) -> None:
    saved = Settings(**MINE, max_steps=12, checkpoint_every_steps=4, learning_rate=1e-3)
    form_saves(saved)
    for number in ("00", "01", "02", "03", "04"):
        assert opened(capsys, notebook_cell(number))[0] == saved, number
    assert opened(capsys, notebook_cell("03", max_steps=30))[0] == saved.model_copy(update={"max_steps": 30})


def test_few_steps_lower_the_checkpoint_interval_that_nobody_chose(home: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert opened(capsys, notebook_cell("00", **MINE, max_steps=20))[0].checkpoint_every_steps == 20
    assert opened(capsys, notebook_cell("00", max_steps=2))[0].checkpoint_every_steps == 2
    path = tmp_path / "few.yaml"
    path.write_text("corpus_paths: [corpora/mine]\nmax_steps: 20\n")
    assert params.load(path).checkpoint_every_steps == 20
    with pytest.raises(ParameterError, match="checkpoint_every_steps = 30 is above max_steps = 20"):
        params.load(path, ["checkpoint_every_steps=30"])


def test_documents_of_the_demo_are_refused_beside_ones_own_corpus(capsys: pytest.CaptureFixture) -> None:
    expected = r"operatives_paths = \['demo:operatives'\]: documents of the demo would be trained on together with your corpus \['corpora/mine'\].*\[\]"
    for corpus in (["corpora/mine"], ["demo:corpus", "corpora/mine"]):
        with pytest.raises(ParameterError, match="operatives_paths"):
            params.validate({"corpus_paths": corpus, "operatives_paths": ["corpora/guides", "optional:demo:operatives"]})
    with pytest.raises(ParameterError, match=expected):
        params.load(places.params() / "demo.yaml", ["corpus_paths=[corpora/mine]"])
    capsys.readouterr()
    got = params.load(places.params() / "demo.yaml", ["corpus_paths=[corpora/mine]", "operatives_paths=[]"])
    said = capsys.readouterr().err
    assert (
        got.domain_weights == {}
        and "domain_weights: {'general': 40.0} is left out" in said
        and got.retention_paths == []
        and got.base_model.startswith("demo:")
        and "demo:retention is left out" in said
    )
    assert "these values of the demo: group_key = 'module'" in said and "params/own_corpus.yaml" in said
    assert params.load(places.params() / "demo.yaml").retention_paths == ["demo:retention"] and not capsys.readouterr().err


def test_a_run_of_an_older_version_with_documents_of_the_demo_can_still_be_opened(home: Path, capsys: pytest.CaptureFixture) -> None:
    old = short_run(**MINE, operatives_paths=["demo:operatives"], retention_paths=["demo:retention"])
    run = Run.open(old)
    assert Run.existing(run.folder).settings == old and not capsys.readouterr().err
    with pytest.raises(ParameterError, match=r"operatives_paths.*set operatives_paths to \[\]"):
        opened(capsys, notebook_cell("03", run_name="mine"))
    assert opened(capsys, notebook_cell("01", run_name="mine", operatives_paths=[]))[0].operatives_paths == []


def test_a_saved_file_that_cannot_be_used_is_named(home: Path, capsys: pytest.CaptureFixture) -> None:
    form_saves(Settings(run_name="mine")).write_text("lerning_rate: 1\n")
    with pytest.raises(ParameterError, match=r"runs/mine\.yaml: unknown parameter 'lerning_rate'"):
        opened(capsys, CELL)
    with pytest.raises(ParameterError, match="no such parameter file"):
        opened(capsys, CELL.replace('""', '"params/dmeo.yaml"'))


def test_a_corrected_misspelling_is_no_longer_refused(home: Path) -> None:
    wrong, right = 'run_name = "mine"\nlerning_rate = 3e-4', 'run_name = "mine"\nlearning_rate = 3e-4'
    names = {"run_name": "mine", "lerning_rate": 3e-4, "learning_rate": 3e-4}
    call = "settings = params.from_notebook(globals())"
    with pytest.raises(ParameterError, match="lerning_rate"):
        params.from_notebook({**names, "In": ["", wrong, call]})
    assert params.from_notebook({**names, "In": ["", wrong, call, right, call]}).learning_rate == 3e-4
    with pytest.raises(ParameterError, match="lerning_rate"):
        params.from_notebook({**names, "In": ["", wrong, "# Parameters\n" + right, call]})


def test_a_run_name_that_cannot_be_a_folder_is_explained_in_words() -> None:
    with pytest.raises(ParameterError, match="run_name = 'my first run!': letters, digits and") as caught:
        params.validate({"run_name": "my first run!"})
    assert "pattern" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("columns={prompt: x", "not valid YAML; expected a value as in max_steps=20"),
        ("corpus_paths=corpora/mine", r"a list is expected, such as \[corpora/mine\]"),
    ],
)
def test_the_error_for_a_malformed_override_shows_a_valid_one(override: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        params.load(places.params() / "demo.yaml", [override])


def test_the_command_line_refuses_a_typo_and_prints_the_resolved_parameters() -> None:
    command = [sys.executable, "-m", "mistral_lib", "check", str(places.params() / "demo.yaml"), "--set"]
    refused = subprocess.run([*command, "lerning_rate=1e-4"], capture_output=True, text=True)
    assert refused.returncode == 1 and "did you mean 'learning_rate'" in refused.stderr
    shown = subprocess.run([*command, "learning_rate=1e-4"], capture_output=True, text=True)
    assert shown.returncode == 0 and "learning_rate: 0.0001  #" in shown.stdout
    assert shown.stdout.splitlines()[-1] == f"# valid: {len(Settings.names())} parameters"
    assert params.validate(yaml.safe_load(shown.stdout)) == short_run(learning_rate=1e-4), "the output is a parameter file"


def faults(**values: object) -> list[str]:
    return parameter_faults.contradictions(short_run(**values), params.instances())


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        ({"validation_share": 0.4, "test_share": 0.39}, {"validation_share": 0.4, "test_share": 0.4},
         "validation_share + test_share = 0.80 leaves too little for training; expected less than 0.8"),
        ({"domain_weights": {"a": 0.0, "b": 1.0}}, {"domain_weights": {"a": -0.1, "b": 1.0}}, "domain_weights: a = -0.1 is negative"),
        *(({key: 512, "max_tokens": 512}, {key: 511, "max_tokens": 512}, f"{key} = 511 is less than one block of max_tokens = 512")
          for key in ("max_validation_tokens", "max_test_tokens", "max_probe_tokens")),
        ({"max_probe_tokens": 0, "max_tokens": 512}, {"max_probe_tokens": 1, "max_tokens": 512}, "max_probe_tokens = 1 is less than one block"),
        ({"max_steps": 4, "checkpoint_every_steps": 4}, {"max_steps": 4, "checkpoint_every_steps": 5},
         "checkpoint_every_steps = 5 is above max_steps = 4: a killed run would start over; set it to 4 or less"),
        ({"max_steps": 0, "checkpoint_every_steps": 4}, {"max_steps": 1, "checkpoint_every_steps": 4}, "checkpoint_every_steps = 4 is above"),
        ({"early_stopping_patience": 2, "validate_every_steps": 1}, {"early_stopping_patience": 2, "validate_every_steps": 0},
         "early_stopping_patience = 2 needs validations: set validate_every_steps above 0"),
        ({"early_stopping_patience": 0, "validate_every_steps": 0}, {"early_stopping_patience": 1, "validate_every_steps": 0}, "needs validations"),
        ({"max_usd": 1.0, "instance": "g5.xlarge"}, {"max_usd": 1.0, "instance": "cpu"},
         "max_usd = 1.0 is never reached: instance cpu is free; set max_hours instead"),
        ({"max_usd": 0.0, "instance": "cpu"}, {"max_usd": 0.1, "instance": "cpu"}, "max_usd = 0.1 is never reached"),
        ({"instance": "cpu"}, {"instance": "gpu"}, "unknown instance 'gpu'"),
    ],
)  # fmt: skip
def test_each_contradiction_begins_exactly_at_its_limit(good: dict, bad: dict, words: str) -> None:
    assert faults(**good) == []
    (fault,) = faults(**bad)
    assert words in fault


def test_an_unknown_instance_names_the_file_of_instances() -> None:
    assert faults(instance="nothing like it") == [
        f"unknown instance 'nothing like it'; known are {', '.join(params.instances())} (params/instances.yaml)"
    ]


def test_a_name_that_is_like_no_other_lists_all_known_ones() -> None:
    assert parameter_faults.unknown("color", "blu", ["red", "blue"]) == "unknown color 'blu'; did you mean 'blue'?"
    assert parameter_faults.unknown("color", "xyz", ["red", "blue"]) == "unknown color 'xyz'; known are red, blue"


def test_a_fault_of_a_value_names_its_meaning_and_pydantics_reason() -> None:
    with pytest.raises(ParameterError) as caught:
        params.validate({"seed": "many"}, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml: seed = 'many': Input should be a valid integer")
    assert str(caught.value).endswith(f" — seed is: {params.meaning('seed')}")


def test_overrides_are_read_as_yaml_and_need_an_equals_sign(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("max_steps: 3\ncheckpoint_every_steps: 3\n")
    got = params.load(path, [" max_steps =5", "columns={prompt: a=b}"])
    assert (got.max_steps, got.columns, got.checkpoint_every_steps) == (5, {"prompt": "a=b"}, 3)
    with pytest.raises(ParameterError, match=r"^--set 'max_steps 5': expected key=value$"):
        params.load(path, ["max_steps 5"])
    with pytest.raises(ParameterError, match=r"mine\.yaml: seed = 'x'"):
        params.load(path, ["seed=x"])


def test_a_missing_file_lists_the_files_of_both_folders_and_no_instances(home: Path) -> None:
    form_saves(Settings(run_name="mine"))
    with pytest.raises(ParameterError) as caught:
        params.load("runs/other.yaml")
    assert str(caught.value).startswith("runs/other.yaml: no such parameter file; params/ holds ") and "; runs/ holds mine.yaml" in str(
        caught.value
    )
    assert "demo.yaml" in str(caught.value) and "instances" not in str(caught.value)
    (home / "runs" / "mine.yaml").unlink()
    with pytest.raises(ParameterError) as caught:
        params.load("runs/other.yaml")
    assert "runs/ holds" not in str(caught.value)


def test_a_file_beside_the_current_directory_comes_first(home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> None:
    form_saves(Settings(run_name="mine", max_tokens=256))
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    assert params.find_file("runs/mine.yaml") == home / "runs" / "mine.yaml" and params.find_file("nowhere.yaml") == Path("nowhere.yaml")
    (here / "runs").mkdir()
    (here / "runs" / "mine.yaml").write_text("max_tokens: 128\n")
    assert params.load("runs/mine.yaml").max_tokens == 128


def test_a_long_value_stays_on_one_line(tmp_path: Path) -> None:
    long = Settings(corpus_paths=[f"corpora/number {number}/with a long name" for number in range(60)], columns={"prompt": "a # b"})
    lines = params.to_yaml(long).splitlines()
    assert len(lines) == len(Settings.names()) and all(params.meaning(line.split(":")[0]) in line for line in lines)
    (tmp_path / "mine.yaml").write_text(params.to_yaml(long))
    assert params.load(tmp_path / "mine.yaml") == long


def test_saving_says_what_it_did_and_never_replaces_unasked(home: Path) -> None:
    path, count = home / "runs" / "mine.yaml", len(Settings.names())
    first, second = Settings(run_name="mine"), Settings(run_name="mine", seed=7, max_tokens=64)
    assert params.save(first, path) == f"runs/mine.yaml written: {count} parameters"
    assert params.save(first, path) == "runs/mine.yaml has exactly these values already"
    with pytest.raises(FileExistsError, match=r"^runs/mine\.yaml exists with other values: .*; nothing was written$") as refused:
        params.save(second, path)
    assert set(str(refused.value).split(": ")[1].split(";")[0].split(", ")) == {"seed", "max_tokens"} and params.load(path) == first
    assert params.save(second, path, replace=True) == f"runs/mine.yaml replaced: {count} parameters" and params.load(path) == second
    path.write_text("# mine\n" + path.read_text())
    with pytest.raises(FileExistsError, match="other values: its comments differ; nothing"):
        params.save(second, path)
    path.write_text(path.read_text().replace("seed: 7", "seed: 8"))
    with pytest.raises(FileExistsError, match="other values: seed; nothing"):
        params.save(second, path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"seed: 1\nmax_steps: 5\nseed: 2\n", r"seed is given twice, in lines 1 and 3"),
        (b"columns: {prompt: a, prompt: b}\n", r"prompt is given twice, in lines 1 and 1"),
        ("run_name: übung\n".encode("cp1252"), r"line 1 has the byte 0xfc, which is not UTF-8; .*save it as UTF-8"),
        ("seed: 1\n".encode("utf-16"), r"the file is UTF-16 or UTF-32; .*save it as UTF-8"),
        (b"seed: 99999999999999999999\n", r"seed = 99999999999999999999: .*4294967295"),
        ("seed: 1\n".encode("utf-16-le"), r"the file is UTF-16 or UTF-32; .*save it as UTF-8"),
        (b"# nothing\n", r"the file has no parameters"),
        (b"base_model: ''\n", r"base_model is empty"),
        (b"columns: {prompt: ''}\n", r"columns: prompt names no key"),
        (b"corpus_paths: ['']\n", r"corpus_paths = \[''\]: an empty path would read the whole folder"),
        (b"operatives_paths: ['optional: ']\n", r"operatives_paths = .*an empty path"),
        (b"run_name: " + b"a" * 300, r"at most 100 characters"),
    ],
)
def test_each_fault_of_a_file_has_its_own_message(home, data, message):
    path = home / "mine.yaml"
    path.write_bytes(data)
    with pytest.raises(params.ParameterError, match=message) as error:
        params.load(path)
    assert "mine.yaml" in str(error.value)


def test_a_byte_order_mark_is_read(home):
    (home / "mine.yaml").write_bytes(b"\xef\xbb\xbfseed: 7\n")
    assert params.load(home / "mine.yaml").seed == 7


def test_a_merge_key_is_read_and_its_values_may_be_replaced(home: Path) -> None:
    path = home / "mine.yaml"
    path.write_text("columns: &usual {prompt: ask, answer: reply}\n<<: {seed: 3, lora_rank: 8}\nseed: 5\n")
    assert params.read_yaml(path) == {"columns": {"prompt": "ask", "answer": "reply"}, "seed": 5, "lora_rank": 8}

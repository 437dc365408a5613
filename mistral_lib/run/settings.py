"""Every parameter of a run with its default, limits, meaning, unit and the stages that it influences.

A stage re-runs when, and only when, one of its own parameters changed. A parameter that names the stage in `keeps` leaves its finished
work valid: parts of the data, which are made before the parameter is read; steps of a training, if it does not change what is trained;
measurements of an evaluation, if only what is computed from them changes.

A new parameter also needs: a line in each params/*.yaml; a line in the parameters cell of a notebook that should offer it; if it
influences the training, its use (most are handed to transformers in `OptimizerSteps.arguments`) and a line in EFFECTS of
tests/training/test_parameters_take_effect.py; `keeps`, if finished work stays valid. params.py reads and checks values.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

Action = Literal["redact", "flag", "reject", "off"]
Judgment = Literal["reject", "flag", "off"]
ComputeType = Literal["auto", "bfloat16", "float16", "float32"]
Count = Annotated[int, Field(ge=1)]
PersonalKind = Literal[
    "social_security_number", "national_id", "passport_number", "license_plate", "vehicle_number",
    "ip_address", "mac_address", "date_of_birth", "street_address", "person_name",
]  # fmt: skip
ExportForm = Literal["merged", "f16", "q8_0", "q4_k_m", "lora_gguf"]
Tracker = Literal["none", "tensorboard", "mlflow", "wandb", "trackio"]
Script = Literal["latin", "greek", "cyrillic", "hebrew", "arabic", "devanagari", "thai", "hangul", "kana", "han"]
STAGES = ("corpus", "data", "training", "evaluation", "export", "parity")
FITTED = ("micro_batch_size", "gradient_accumulation_steps", "activation_checkpointing")  # what the fit plan chooses if it is `auto`
ANSWERED_AT_ONCE = 20  # test prompts of a batch of generated answers: a step takes hardly longer for many than for one
LONGEST_PROMPT = 256  # tokens of a prompt that is answered: short enough to be read next to its answers
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)  # values of max_tokens that forms and sliders offer


def _field(default: Any, meaning: str, stages: str, keeps: str = "", **limits: Any) -> Any:
    """keeps: the one of `stages` whose finished work stays valid when the value changes."""
    return Field(default, description=meaning, json_schema_extra={"stages": stages.split(), "keeps": keeps}, **limits)


def _check(default: str, meaning: str) -> Any:
    """A check of the data stage: its value is the action on a record in which it finds something."""
    return Field(default, description=meaning, json_schema_extra={"stages": ["data"], "keeps": "", "check": True})


class Settings(BaseModel):
    """All parameters of a run. The defaults are for a corpus of one's own, except `corpus_paths` and the small `base_model`, which need
    no hub and no account. The demo's values are in params/demo.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    run_name: str = _field("demo", "name of the run folder below runs/", "", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    seed: int = _field(42, "seed of splits, initial adapter and data order", "data training evaluation", ge=0, le=2**32 - 1)

    corpus_paths: list[str] = _field(
        ["demo:corpus"],
        "files, folders, globs, s3:// prefixes or hf://datasets/owner/name; optional:PATH may be missing",
        "corpus data",
        min_length=1,
    )
    operatives_paths: list[str] = _field([], "sources of operatives: documents that join after the corpus; may be empty", "corpus data")
    domain_key: str = _field(
        "domain", "row key that names the domain; rows without it take the file's name, texts their folder's", "corpus data evaluation"
    )
    group_key: str = _field(
        "", "row key that names the source document, all of whose records are in one split; empty: the usual keys", "corpus data evaluation"
    )

    columns: dict[str, str] = _field(
        {}, "row keys that hold prompt, answer or text, for row shapes that are not recognized", "corpus data evaluation"
    )
    salvage: bool = _field(True, "split lines that hold several JSON objects; otherwise reject them", "corpus data evaluation")
    pdf_characters: int = _field(0, "characters per record of a PDF; 0: one record per page", "corpus data evaluation", ge=0, le=1_000_000)
    ocr: bool = _field(False, "read scanned PDF pages and pictures by Tesseract, which must be installed", "corpus data evaluation")
    exclude_file: str = _field(
        "", "file of records to leave out, by id or source; empty: excluded.txt in the run folder, if it exists", "data"
    )
    strict: bool = _field(False, "fail if any row is rejected", "data", keeps="data")
    max_rejected_share: float = _field(
        0.5, "largest share of rejected rows; above it the data stage fails", "data", keeps="data", ge=0, le=1
    )

    normalized: Literal["redact", "off"] = _check("redact", "repair: one Unicode form, one line ending, no invisible characters")
    unescaped_newlines: Literal["redact", "off"] = _check("redact", "repair: backslash-n instead of newlines in a text that has none")
    secrets: Action = _check("redact", "private keys, provider tokens, URL credentials, secret-like assignments")
    personal_data: Action = _check("redact", "e-mail addresses, telephone, IBAN, account and card numbers, user names in home paths")
    more_personal_data: list[PersonalKind] = _field(
        [], f"kinds that personal_data looks for as well: {', '.join(get_args(PersonalKind))}", "data"
    )
    answer_too_short: Judgment = _check("reject", "the answer has fewer characters than shortest_answer")
    boilerplate: Judgment = _check(
        "reject", "cookie banner, license header, error page or menu instead of an answer, unless the prompt asks for one"
    )
    placeholder_answer: Judgment = _check("reject", "TODO, lorem ipsum, 'Processed content from <file>'")
    refusal: Judgment = _check("flag", "the answer is an assistant's refusal")
    mostly_html: Judgment = _check("reject", "HTML tags are more than html_share of the answer, and the prompt asks for no code")
    low_letter_share: Judgment = _check("flag", "letters are fewer than letter_share of the answer")
    low_script_share: Judgment = _check("off", "letters of the script are fewer than script_share of all letters")
    odd_code_fences: Judgment = _check("flag", "a code block is opened and never closed")
    control_strings: Judgment = _check("flag", "the text contains a control string of a chat template as plain text")
    html_share: float = _field(0.5, "share of an answer's characters, for mostly_html", "data", ge=0, le=1)
    letter_share: float = _field(0.25, "share of an answer's non-blank characters, for low_letter_share", "data", ge=0, le=1)
    script: Script = _field("latin", "expected script, for low_script_share", "data")
    script_share: float = _field(0.5, "share of an answer's letters, for low_script_share", "data", ge=0, le=1)
    most_repeated_pattern: int = _field(
        50,
        "records with one prompt and one answer that differ only in a name which the answer copies, such as a file's; more are rejected as placeholder_text; 0: no limit",
        "data",
        ge=0,
    )
    near_duplicate_threshold: float = _field(
        0.8, "Jaccard similarity of word 5-grams from which records are near-duplicates; 1: no search", "data", gt=0.3, le=1
    )

    objective: Literal["answers", "documents", "both"] = _field("both", "train on chat answers, plain documents, or both", "data")
    base_model: str = _field(
        "demo:smollm2-135m-instruct", "hub id, local folder or s3:// prefix of the base model", "corpus data training evaluation"
    )
    max_tokens: int = _field(512, "tokens per packed block, and of the longest record", "data evaluation", ge=32, le=32768)
    long_records: Literal["split", "truncate", "reject"] = _field(
        "split", "records above max_tokens: split, truncate, reject", "data evaluation"
    )
    shortest_answer: int = _field(1, "characters of the shortest accepted answer", "data", ge=1)
    domain_weights: dict[str, float] = _field(
        {}, "how often a domain's training records are used: 0.5 half of them, 2 each twice", "data", keeps="data"
    )
    operatives_share: float = _field(1.0, "largest share of operatives in the training tokens", "data", keeps="data", ge=0, le=1)
    order: Literal["shuffled", "operatives_last"] = _field(
        "shuffled", "order of the training records: shuffled, operatives_last", "data training", keeps="data"
    )
    validation_share: float = _field(0.08, "share of source documents for validation during training", "data", keeps="data", gt=0, lt=0.5)
    test_share: float = _field(0.08, "share of source documents kept for the final evaluation", "data", keeps="data", gt=0, lt=0.5)

    engine: Literal["local", "ray"] = _field(
        "local", "where rows are read, checked and tokenized: on this machine, or on a Ray cluster", ""
    )
    ray_address: str = _field(
        "auto", "head of the Ray cluster as HOST:PORT; auto: the one of this machine; local: one for this run alone", "", min_length=1
    )
    shared_folder: str = _field(
        "", "folder or s3:// prefix that all nodes of the cluster reach, for unfinished work; empty: the run folder is reached by all", ""
    )

    instance: str = _field("cpu", "a name in params/instances.yaml: sets the price", "training", keeps="training")
    quantization: Literal["nf4", "none"] = _field("nf4", "4-bit NormalFloat weights, or not quantized", "training evaluation")
    dtype: ComputeType = _field("auto", "compute type; auto: the one that suits the hardware", "training evaluation")
    lora_rank: int = _field(16, "rank r of the LoRA matrices", "training", ge=1, le=512)
    lora_alpha: int = _field(32, "LoRA updates are scaled by lora_alpha / lora_rank", "training", ge=1)
    lora_dropout: float = _field(0.0, "share of LoRA inputs dropped during training", "training", ge=0, lt=1)
    lora_targets: str = _field("all-linear", "all-linear, or projection names separated by commas", "training", min_length=1)
    learning_rate: float = _field(2.0e-4, "peak learning rate", "training", gt=0, lt=1)
    warmup_share: float = _field(0.03, "share of the steps in which the learning rate rises", "training", ge=0, lt=1)
    epochs: float = _field(2.0, "passes over the training split, if max_steps is 0", "training", gt=0)
    max_steps: int = _field(0, "optimizer steps; 0: as many as epochs need", "training", ge=0)
    micro_batch_size: Literal["auto"] | Count = _field(
        2, "packed blocks per forward pass; auto: what the machine has memory for", "training evaluation"
    )
    gradient_accumulation_steps: Literal["auto"] | Count = _field(
        4, "forward passes per optimizer step; auto: blocks_per_step / micro_batch_size", "training"
    )
    blocks_per_step: int = _field(
        8, "packed blocks of an optimizer step, if micro_batch_size or gradient_accumulation_steps is auto", "training", ge=1
    )
    activation_checkpointing: Literal["auto"] | bool | Count = _field(
        False,
        "recompute activations: less memory, up to half slower; a number n: of every n-th layer; auto: of as few as the memory allows",
        "training",
        keeps="training",
    )
    checkpoint_every_steps: int = _field(50, "optimizer steps between checkpoints", "training", keeps="training", ge=1)
    validate_every_steps: int = _field(
        50, "optimizer steps between validations; the best adapter is kept; 0: only before and after", "training", keeps="training", ge=0
    )
    early_stopping_patience: int = _field(
        0, "validations without a lower loss before training stops; 0: never", "training", keeps="training", ge=0
    )
    max_hours: float = _field(0.0, "hours after which training stops and verifies its adapter, all attempts together; 0: no limit",
                              "training", keeps="training", ge=0)  # fmt: skip
    max_usd: float = _field(0.0, "USD at the instance's price after which training stops and verifies its adapter; 0: no limit",
                            "training", keeps="training", ge=0)  # fmt: skip
    report_to: Tracker = _field(
        "none", "experiment tracker that the training also reports to: none, tensorboard, mlflow, wandb, trackio", ""
    )
    max_validation_tokens: int = _field(131072, "tokens of the validation split that are measured; 0: all", "training", ge=0)

    max_test_tokens: int = _field(0, "tokens of the test split that are measured; 0: all", "evaluation", ge=0)
    max_label_records: int = _field(
        200, "test records of label domains on which base and adapter choose a label; 0: all", "evaluation", ge=0
    )
    sample_count: int = _field(32, "test prompts that base and adapter answer", "evaluation", ge=0)
    max_new_tokens: int = _field(256, "tokens of the longest generated answer", "evaluation", ge=1)
    answer_formats: dict[str, Literal["python", "json"]] = _field(
        {}, "format that a domain's answers are checked for: python, json", "evaluation", keeps="evaluation"
    )
    retention_paths: list[str] = _field(
        [], "own texts outside the corpus that the model should still predict well, beside general_prompts", "evaluation"
    )
    general_prompts: int = _field(
        60, "general prompts: forgetting is measured on the base model's answers to them; 0: not measured", "evaluation", ge=0, le=60
    )
    max_probe_tokens: int = _field(32768, "tokens measured of the retention set and of the training split; 0: all", "evaluation", ge=0)
    lm_eval_tasks: list[str] = _field([], "lm-eval tasks by name, or your own .yaml files; needs pip install lm-eval", "evaluation")
    max_retention_loss: float = _field(
        0.2, "verdict: largest rise of the loss on a retention set, in nats per supervised token", "evaluation", keeps="evaluation", ge=0
    )
    min_stop_rate: float = _field(
        0.95, "verdict: smallest share of answers that end by themselves", "evaluation", keeps="evaluation", ge=0, lt=1
    )
    export_forms: list[ExportForm] = _field(
        ["merged", "q8_0", "q4_k_m", "lora_gguf"],
        f"what the adapter is exported as: {', '.join(get_args(ExportForm))}; empty: nothing is exported",
        "export",
    )
    merge_into: Literal["auto", "16bit", "nf4"] = _field(
        "auto", "weights that the adapter is merged into: 16bit, nf4 (dequantized), or auto: what measures better", "export"
    )
    max_export_tokens: int = _field(
        2048, "supervised tokens of the test split on which each exported form is measured; 0: all", "export", ge=0
    )
    min_gain_kept: float = _field(
        0.9, "smallest share of the adapter's gain that an exported or served model must keep", "parity", ge=0, le=1
    )
    require_ship: bool = _field(False, "exit non-zero unless the verdict is ship", "")

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_another_type(cls, value: Any, info: Any) -> Any:
        """False for a key that can be `off` is `off`, which YAML reads as false. `no` is refused: `secrets: no` may mean either."""
        kind = cls.model_fields[info.field_name].annotation
        choices = [choice for choice in get_args(kind) if isinstance(choice, str)]
        if value is False and "off" in choices:
            return "off"
        if kind is not bool and bool not in get_args(kind) and (isinstance(value, bool) or (value == "no" and kind is not str)):
            hint = "true/false is not a value for this key (YAML reads on, off, yes and no as true/false: quote them)"
            raise ValueError(f"{hint}; expected {', '.join(choices)}" if choices else hint)
        return value

    @property
    def has_own_corpus(self) -> bool:
        return not all(map(is_embedded, self.corpus_paths))

    def open_choices(self) -> list[str]:
        """The parameters among FITTED that are `auto`."""
        return [name for name in FITTED if getattr(self, name) == "auto"]

    def stage(self, name: str) -> dict[str, Any]:
        """The parameters that influence one stage."""
        return {key: getattr(self, key) for key in self.names() if name in stages_of(key)}

    def work_depends_on(self, stage: str) -> dict[str, Any]:
        """The parameters that the finished work of a stage depends on."""
        return {key: value for key, value in self.stage(stage).items() if key not in keeping_work(stage)}

    def check_actions(self) -> dict[str, str]:
        """What each check of the data stage does: flag, redact, reject or off."""
        return {name: getattr(self, name) for name in CHECKS}

    @classmethod
    def names(cls) -> list[str]:
        return list(cls.model_fields)


def is_embedded(path: str) -> bool:
    """Whether a source comes with the workbook, such as demo:corpus."""
    return path.removeprefix("optional:").startswith("demo:")


CHECKS = tuple(name for name, field in Settings.model_fields.items() if "check" in field.json_schema_extra)


def keeping_work(stage: str) -> set[str]:
    """The parameters that may change without making a stage's finished work invalid."""
    return {name for name, field in Settings.model_fields.items() if field.json_schema_extra["keeps"] == stage}


def stages_of(name: str) -> list[str]:
    return Settings.model_fields[name].json_schema_extra["stages"]


def meaning(name: str) -> str:
    return Settings.model_fields[name].description


def layers_recomputed(level: Any) -> str:
    """A value of activation_checkpointing in words: `none`, `all`, `every 2nd`, `auto`."""
    if level == "auto" or not level:
        return level or "none"
    return "all" if int(level) == 1 else f"every {level}{ {2: 'nd', 3: 'rd'}.get(level, 'th') }"


def limits(name: str) -> str:
    """Which values a parameter takes, in words: `a whole number, at least 32 and at most 32,768`, `one of answers, documents, both`."""
    return _limits(Settings.model_json_schema()["properties"][name])


def _limits(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(map(_limits, field["anyOf"]))
    if "const" in field:
        return field["const"]
    if "enum" in field:
        return f"one of {', '.join(field['enum'])}"
    kinds = {
        "integer": "a whole number",
        "number": "a number",
        "boolean": "true or false",
        "array": "a list",
        "object": "names with values",
    }
    kind = kinds.get(field["type"], "letters, digits and . _ -" if "pattern" in field else "text")
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    bounds = [f"{word} {field[key]:,}" for key, word in words.items() if key in field]
    return f"{kind}, {' and '.join(bounds)}" if bounds else kind

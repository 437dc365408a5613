"""What the checks need: a device, random models of Mistral's shape, and runs whose data are prepared."""

import itertools
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import MistralConfig, MistralForCausalLM

from mistral_lib.family import published_models
from mistral_lib.model import base_model, mistral_tokenizer
from mistral_lib.preparation import prepare
from mistral_lib.run import Run, files, paths
from mistral_lib.run.settings import Settings
from tests.support.corpora import rows, short_run

TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
SMALL = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128}  # fmt: skip


class Skipped(Exception):  # noqa: N818
    """A check that this machine cannot run, with the reason."""


@dataclass
class Bench:
    """device: cuda or cpu. On a CPU it is a rehearsal: the models are tiny, and what needs CUDA is skipped with a reason."""

    device: str
    made: dict[str, str] = field(default_factory=dict)

    @property
    def rehearsal(self) -> bool:
        return self.device == "cpu"

    def require_cuda(self, what: str) -> None:
        """Errors: Skipped on a CPU."""
        if self.rehearsal:
            raise Skipped(f"{what} needs CUDA")

    def small_model(self) -> str:
        """The folder of a model for checks of numbers; on a GPU 8 layers, 130 million parameters."""
        return self.model("small", TINY if self.rehearsal else SMALL)

    def whole_model(self) -> str:
        """The folder of a model with the 32 layers and all sizes of Mistral-7B-Instruct-v0.3; in a rehearsal the small one."""
        return self.small_model() if self.rehearsal else self.model("whole", published_models.MISTRAL_7B)

    def model(self, name: str, sizes: dict[str, Any]) -> str:
        if name not in self.made:
            self.made[name] = str(random_model(paths.models() / f"random-{name}", sizes, self.device))
        return self.made[name]

    def run(self, name: str, **changes: Any) -> Run:
        """A run of this name whose data are prepared; an earlier one of the same name is deleted."""
        corpus = paths.home() / "corpora" / "made-up"
        for domain in ("red", "green"):
            files.write_json_lines(corpus / f"{domain}.jsonl", rows(domain, 160))
        shutil.rmtree(paths.runs() / name, ignore_errors=True)
        run = Run.open(self.settings(run_name=name, corpus_paths=["corpora/made-up"], **changes))
        prepare.prepare(run)
        return run

    def settings(self, **changes: Any) -> Settings:
        """Parameters for the small model: a few short steps."""
        usual = {
            "base_model": self.small_model(), "max_tokens": 128, "max_steps": 6, "checkpoint_every_steps": 2, "validate_every_steps": 0,
            "learning_rate": 1e-3, "validation_share": 0.15, "test_share": 0.15, "max_validation_tokens": 1024, "quantization": "nf4",
            "dtype": "auto", "warmup_share": 0.0, "lora_dropout": 0.0, "sample_count": 2, "max_new_tokens": 8,
        }  # fmt: skip
        return short_run(**{**usual, **changes})


def random_model(folder: Path, sizes: dict[str, Any], device: str) -> Path:
    """A Mistral of these sizes with random weights and Mistral's v3 tokenizer, saved in bfloat16; as usable as a downloaded one."""
    tokenizer = mistral_tokenizer.load()
    tokenizer.pad_token = tokenizer.unk_token
    words = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = MistralConfig(**{"vocab_size": len(tokenizer), "sliding_window": None, "tie_word_embeddings": False, **sizes},
                           initializer_range=sizes["hidden_size"] ** -0.5, **{f"{name}_token_id": number for name, number in words.items()})  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = MistralForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="2GB")
    tokenizer.save_pretrained(folder)
    del model
    return folder


def adapted(settings: Settings, train: bool = True) -> Any:
    """The base model with an adapter that is not zero, so that every matrix of it has a gradient."""
    from transformers import set_seed

    model = base_model.load_base(settings)
    set_seed(settings.seed)
    model = base_model.attach_lora(model, settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.train(train)


def packed_batch(vocabulary: int, tokens: int, blocks: int, device: str, seed: int = 1) -> dict[str, torch.Tensor]:
    """Blocks of several records each; every token but the first of a record is supervised."""
    draw = torch.Generator().manual_seed(seed)
    lengths = [[tokens // 2, tokens // 4 - 3, 3, tokens // 4], [1, tokens - 9, 8]]
    positions = torch.stack([torch.cat([torch.arange(one) for one in lengths[n % 2]]) for n in range(blocks)])
    ids = torch.randint(3, vocabulary, (blocks, tokens), generator=draw)
    batch = {"input_ids": ids, "labels": ids.masked_fill(positions == 0, -100), "position_ids": positions}
    return {name: values.to(device) for name, values in batch.items()}


def separate(batch: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The records of packed blocks, each as a batch of its own."""
    found = []
    for row in range(len(batch["input_ids"])):
        starts = (batch["position_ids"][row] == 0).nonzero().flatten().tolist()
        for first, last in itertools.pairwise([*starts, batch["input_ids"].shape[1]]):
            found.append({name: values[row : row + 1, first:last] for name, values in batch.items()})
    return found

"""Loading a tokenizer: quick, and without lasting effects on other libraries."""

import subprocess
import sys

LOAD = """
import sys
from mistral_lib.model import base_model
base_model.load_tokenizer(sys.argv[1])
assert "mistral_common" in sys.modules and "jsonschema" in sys.modules, "as long as transformers imports them, this test says something"
assert "lark" not in sys.modules, "jsonschema has compiled its grammars: seconds in every process that loads a tokenizer"
import rfc3987_syntax  # other libraries still find it
"""


def test_loading_a_tokenizer_compiles_no_grammars(tiny_model: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOAD, tiny_model], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_loaded_model_sums_float16_products_in_float32(tiny_model: str) -> None:
    import torch

    from mistral_lib.model import base_model
    from mistral_lib.run.settings import Settings

    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True  # PyTorch's default
    base_model.load_base(Settings(base_model=tiny_model, quantization="none", dtype="float32"))
    assert torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction is False

"""The shared library of the Mistral workbook: notebooks tell and show, these modules do and check.

Importing the package prints nothing, seeds nothing and loads no model.
"""

import logging
import os

# PyTorch's matrix products on a CPU keep what they prepared for each of the last 1,024 shapes, two times over. Packed records give new
# shapes at every step: a training grew by 13 MiB a step. 64 hold all shapes of a layer and the last ones of the rest, at the same speed.
for _cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "64")

# On some CPUs bitsandbytes advises at import to install `kernels`: the lock keeps it out, for with it importing downloads code.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"

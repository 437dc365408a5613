"""The library of the Mistral workbook: the notebooks explain and show, these modules do the work and check it.

Importing the package prints nothing, seeds nothing and loads no model.
"""

import logging
import os

# PyTorch caches prepared matrix products on a CPU for the last 1,024 shapes, in two caches. Packed records give new shapes at every
# step, so a training grew by 13 MiB a step. 64 entries hold all shapes of a layer and the last ones of the rest, at the same speed.
for _cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "64")

# On some CPUs bitsandbytes advises at import to install `kernels`. The lock file leaves it out, because importing it downloads code.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"

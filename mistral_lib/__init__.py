"""The library of the Mistral workbook: the notebooks explain and show, these modules do the work and check it.

Importing the package prints nothing, seeds nothing and loads no model.
"""

import logging
import os

# PyTorch caches prepared matrix products on a CPU for the last 1,024 shapes, in two caches. Packed records give new shapes at every
# step, so a training grew by 13 MiB a step. 64 entries hold all shapes of a layer and the last ones of the rest, at the same speed.
for _cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "64")

# Packed batches ask a GPU for ever other sizes; segments that grow leave no gaps between them, into which the next batch does not fit.
# PyTorch reads the older name first and then ignores the newer one, so a person's setting of either stays as it is.
if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
    os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"

# On some CPUs bitsandbytes advises at import to install `kernels`. The lock file leaves it out, because importing it downloads code.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"

"""The shared library of the Mistral workbook: notebooks tell and show, these modules do and check.

Importing the package prints nothing, seeds nothing and loads no model.
"""

import logging

# On some CPUs bitsandbytes advises at import to install `kernels`: the lock keeps it out, for with it importing downloads code.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"

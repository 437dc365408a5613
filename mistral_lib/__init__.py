"""The shared library of the Mistral workbook: notebooks tell and show, these modules do and check.

Importing the package prints nothing, seeds nothing and loads no model.
"""

__version__ = "0.1.0"

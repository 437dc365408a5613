"""The stages export and parity: the adapter in other programs' formats, and the proof that each form is the adapter that was evaluated.

export              stage `export`: merged, GGUF, Modelfile, and the probe
export_pieces       its files while they are made: complete or not there, taken over from a killed export
export_readme       README.md of the export folder
probe               the stored probe: what base model and adapter say about a few test records
probe_measurement   makes it
parity              stage `parity`: every exported form against the probe
probe_answers       asks a form what the probe holds
base_in_forms       the base model in each form
adapter_in_weights  how much of the adapter is in the weights of a file
parity_verdict      from numbers to a verdict
endpoint_parity     whatever answers at an address against the probe
export_tables       the tables and lines of notebook 05, and the recommended form
export_card         the model card of a repository on the hub
hub_upload          publishes a run on the hub
hub_repository      a repository there: made, filled in one commit, read back
"""

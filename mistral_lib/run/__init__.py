"""A run: its parameters, its folder and manifest, and the machine it is on.

settings         what can be set in a run: every parameter with its default, its limits, its meaning and unit, and the stages it influences
params           reads and checks the parameters of a run, and says every fault at once. The only module that reads or writes parameter YAML
parameters_cell  which names a notebook's parameters cells assign, read from the source of the cells: typed by a person, or put in by papermill
folder           A run folder: its stages, its lock and the manifest that says what each stage read, did and left on disk
paths            where things are kept: the one place that decides it
files            files that are either whole or not there: atomic writes and content hashes
progress         words and bars for whoever waits. They go to stderr, so that a notebook's results stay the same on every run
disk             room on disk for what a training saves: asked for before the start and before each save, in words that say what to do
hardware         what this machine is, and which device and compute type suit it, with the reason
allocator        memory that the C library keeps after it was freed: kept within a step, given back between steps when it is much; and Python's garbage
system_memory    how much memory is left for this process, and how often the kernel has killed for lack of it: the machine's and its control groups'
"""

from mistral_lib.run.folder import Run, RunInUse, all_runs, machine

__all__ = ["Run", "RunInUse", "all_runs", "machine"]

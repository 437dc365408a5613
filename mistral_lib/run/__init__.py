"""A run: its parameters, its folder and manifest, and the machine it is on.

settings          every parameter with its default, limits, meaning, unit and the stages that it influences
params            reads, checks and writes parameter files, and finds the parameters of a notebook
parameter_faults  what is wrong with values of parameters, in words
precedence        which value counts: typed, saved, recorded, the demo's, the default
parameters_cell   which names a notebook's parameters cells assign
current_file      runs/.current: the parameter file that the form of notebook 00 saved last
folder            a run folder: its stages, its lock and its manifest
sealed            folders that are complete or not there
files             atomic writes, JSON, JSON lines, hashes and sizes
paths             where runs, models, corpora, parameters and notebooks are
disk              room on disk for a training, and one error if the disk is full
progress          messages and progress bars on stderr
hardware          the device and the compute type that suit this machine, with the reason
cuda_device       whether a CUDA device can be used, what is missing if not, and which other processes are on the card
idle_models       models that are kept between two uses, and freed when something else needs the memory
allocator         when the C library keeps freed memory and when it returns it
kernel_messages   a kernel that answers a reopened page while a cell waits
system_memory     how much memory is left, and how often the kernel has killed a process for lack of it
"""

from mistral_lib.run.folder import Run, RunInUseError, all_runs, machine

__all__ = ["Run", "RunInUseError", "all_runs", "machine"]

"""Where the work on rows is done: in this process, in worker processes of this machine, or on a Ray cluster. Results come in order.

choice            the engine that a run's parameters name
job               what a worker does: a function that is built in the worker and called for each item
processes         this process, or worker processes that communicate over pipes
interrupts        Ctrl-C noted and raised at a safe place
ray_cluster       a Ray cluster: found, checked, its nodes
ray_workers       Ray actors: an item whose worker or node is lost is given to another one
supervised        a command with a log file; all its processes end with its caller, after they have saved
ray_commands      commands side by side on a Ray cluster, each with one GPU or so many cores of a node
"""

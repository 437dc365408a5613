"""A machine of a cluster: the head has the run, the workers compute for it, by Ray.

roles         whether this machine is a head or a worker, and its private address
ray_commands  the command lines that start Ray, with fixed ports
ray_unit      Ray's systemd unit: its text, start and stop, and whether a head answers
head          the head: starts Ray, publishes its address, waits for its workers
worker        the program of a worker: joins its head, and ends when the head has ended or is lost
"""

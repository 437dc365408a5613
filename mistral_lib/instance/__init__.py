"""A rented machine on AWS, from launch to gone, with nothing left running.

records         what this computer knows about a machine: runs/.instances/<run>.json, and the steps of a launch that are done
plan            which machine suits a run: fit, hours, USD, quota, zones, own stopped machines, disk, and a recommendation
plan_text       the plan as lines of a terminal
disk_need       GiB of disk that a run needs on its machine, by part
launch          `up`: bucket, rights, machine and outside timer, step by step; a second call continues the first
launch_options  what may be chosen for a launch, and what follows from it: type, price, time limit, disk
launch_steps    the steps that `up` and `start` share
rehearsal       `up --dry-run`: what would be made, and the policies that it needs
capacity        tries one zone after the other, then waits with growing pauses
restart         `start`: a stopped machine again; another type or place only if requested
moving          an image of a stopped machine, launched in another zone or region
resources       everything in the account with the workbook's tag, and what it costs a day
listing         `list`: the resources as lines of a terminal
cluster         several machines for one run, with Ray: `up --nodes`
unfinished      what `down` would end or lose: a run that still works, results that were not fetched
removal         `down`: removes everything of a run in the right order and shows that nothing is left
in_notebook     what notebook 00 shows: machines to rent with their commands, and what runs and costs now
"""

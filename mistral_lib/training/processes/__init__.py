"""Several processes at one training, on one machine or several.

meeting      how the processes of one start find each other, also after a restart, and which leads
distributed  what they agree on, and how the loss of one is noticed
shared_run   what they read, on shared storage or sent from the first machine
"""

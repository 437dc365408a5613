"""Several machines for one run: a head, which has the run, and workers beside it.

placement  the placement group of the machines, and the rule by which they reach each other and nobody else reaches them
workers    the workers that are there, those that are missing, and those that lost their head
"""

"""The program of a rented machine: it runs there from a small archive, with the standard library and boto3 alone.

job             what the machine has to do: the contents of job.json
user_data       the script of the first boot, and the archive that it loads
"""

"""The program of a rented machine: it runs there from a small archive, with the standard library and boto3 alone.

job             what the machine has to do: the contents of job.json
user_data       the script of the first boot, and the archive that it loads
install         the user of the run, the folders and the units: the last step of that script
units           the systemd units: the agent, the run, the watch for spot notices, the deadline
folders         where everything is on the machine
agent           waits for a job, starts the run, uploads its results, ends the machine
preparation     from job.json to a run that can start
inputs          code, parameters, corpus and base model from the bucket, verified
environment     Python and the packages of the lock, by uv
programs        programs of the machine, with time limits and errors that show what they said
run_unit        starts and stops the run's unit
ending          when and why the machine ends by itself
spot            looks for the notice that a spot machine is taken away
metadata        the metadata service of the instance
heartbeat       reports every 20 seconds
status_file     machine/status.json, and masked logs
cluster         a machine of a cluster: head or worker, with Ray
bucket          the run's part of the bucket: objects, results.json, uploads, restore
"""

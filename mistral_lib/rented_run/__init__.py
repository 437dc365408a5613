"""A run on a rented machine: sent there, watched, resumed on another machine, fetched and verified.

packing        the code of this commit as an archive; a changed tree or a file that looks like a secret is refused
payload        what a run needs beside the code: parameters, corpus files, base model, optional packages
uploading      `run`: everything into the bucket, the hub's token into an encrypted parameter, the job last
sign_of_life   tells the machine, each minute, that files are still on their way, so that it waits for its job
watching       `watch`: what machine and run do, what they cost, when and by which timer they stop
cluster_lines  the workers of a cluster, as lines of `watch`
retry          `run --retry N`: after a spot notice a new machine resumes the run
fetching       `fetch`: results into runs/<run>, verified and audited, nothing overwritten
tunnel         `lab`: JupyterLab or the served model through an SSM tunnel
"""

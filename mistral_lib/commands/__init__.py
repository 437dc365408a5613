"""The command line's work beyond one stage: headless notebooks, sweeps, comparisons, run folders, questions, JupyterLab.

notebook_runs      runs the numbered notebooks headless with papermill, into runs/<name>/notebooks/
run_outcome        the last lines of a headless run: verdict, exported forms, what is stale, what to type next
sweep              a sweep file: one parameter file and the alternatives to try; every fault is listed before anything runs
sweep_runs         runs the alternatives of a sweep, one after another or side by side on a cluster; a failed one stops no other
stage_reuse        takes over a complete stage of another run that would compute the same: hard links, verified
sweep_comparison   the alternatives of a sweep in one table and one figure, from their verified results
compare_runs       compares two or more runs, paired on the same test records, or refuses with the reason
run_folders        lists, renames and deletes the runs below runs/
ask                base model and adapter answer questions side by side in the terminal
export_command     `export` and `parity`: which forms, what was written, what each keeps of the adapter
claims_file        a file of claims, checked for form; every fault with its line
claims             each claim verified, refuted, missing or unknown, with the reason
claimed_cloud      claims about an S3 bucket or an EC2 instance
own_claims         what one may claim of a run, as a claims file
workbook           the working copies of the notebooks, which git ignores
read_only_book     JupyterLab's access to files, with the tracked notebooks read-only
instance_commands  the command line of a rented machine
lab                JupyterLab at the first working copy, on this machine only, with a token
"""

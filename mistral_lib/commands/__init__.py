"""The command line's work beyond one stage: headless notebooks, sweeps, comparisons, JupyterLab.

notebook_runs       runs the numbered notebooks headless with papermill, one after the other, into runs/<name>/notebooks/
sweep               A sweep file: one parameter file and the alternatives that are tried against each other. Every fault is named before anything runs
sweep_runs          runs the alternatives of a sweep one after another through the notebooks, finished ones skipped, and goes on after a failed one
stage_reuse         A finished stage of one run taken over by another that would compute the very same: hard links, verified, with where it is from
sweep_comparison    the alternatives of a sweep side by side: one table and one picture, from what their run folders hold and an audit confirms
compare_runs        two or more runs beside each other: paired on the same test records, or refused with the reason
lab                 jupyterLab as the workbook starts it: at the first notebook, with this environment's Python, behind a token, on this machine alone
"""

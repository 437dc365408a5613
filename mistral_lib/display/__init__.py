"""Figures, tables and the interactive pages of the notebooks.

figure              colors, axes, legends, and the picture with its alternative text
tables              tables of files, parameters, rows, splits and blocks; texts wrap
data_plots          figures of the data: domains, lengths, splits, leaks, mixture
flow_plot           the path of all rows: read, kept or dropped, splits, windows, blocks
loss_plots          figures of losses and labels: a training's curve, base against adapter, several runs
training_curve      the live loss curves, with those of an earlier training
widget_base         a box of widgets with a plain text form, and work in the background
source_preview      the files, first rows and row count of a corpus
run_estimate        memory, time, cost and steps of a run with given parameters
decision_form       notebook 00: the decisions of a run, saved as a parameter file
row_view            a row as JSON, as a record and as graded tokens; why rows were dropped
corpus_explorer     notebook 01: filter, search and exclude rows
threshold_explorer  notebook 02: the effect of thresholds on a sample
training_dashboard  notebook 03: the live page of a training, with a button that saves and stops
votes               blind votes on answers, and their interval
vote_page           notebook 04: the page of the blind vote
side_by_side_chat   notebook 04: base model and adapter answer the same prompt
ask_box             notebook 05: a question to a served model, and its answer
"""

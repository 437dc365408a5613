"""The fit plan and the training stage.

train              the training stage: a process of its own that measures, trains, saves, loads again and only then says `complete`
optimizer_steps    the optimizer steps of a training: from the last whole checkpoint to the end, with a smaller micro batch where memory ran out
trainer            transformers' Trainer as the workbook uses it: logits only where a label is, broken steps left out, checkpoints whole or not there
training_callback  what happens between the steps of a training: a log line, a validation, the best adapter kept, a stop that saves
stopping           why a training stops early: a signal, patience or a budget, losses that went wrong
largest_batch      the batch that asks for the most memory, tried before anything else: what does not fit fails in the first minute
out_of_memory      out of memory: recognised, answered with a smaller micro batch and as much more accumulation, and remembered in the log
checkpoints        checkpoints that are either whole or not there, and the best adapter so far
training_log       log.jsonl: one line per event of a training, written as it happens and readable at any time from any process
training_status    how a training stands, told from what it left on disk: for the command line, a dashboard, or any other process
trainer_process    starts the trainer as a process of its own, tells whether it gets on, and how it ended
trackers           TensorBoard, MLflow, Weights & Biases, Trackio: `report_to` sends the figures there as well
adapter_check      the proof that a training has come to something: the adapter on disk is finite, changed, and as good as the one in memory
distributed        several processes at one training: `torchrun --nproc_per_node N -m mistral_lib train runs/x`, or `accelerate launch`
hang_detection     when a training last got on: every forward pass that ends is noted, so that a hung one is told from a slow one
fit_plan           does it fit, how long, what does it cost: for every machine that is known, before one is rented or a weight is loaded
workload           how long a training takes and what it costs: floating-point operations from the model's shapes, over rates that were attained
plan_table         the fit plan for eyes: rows for a table, lines for a terminal; and after the run, plan against measured
"""

"""The fit plan and the training stage.

train              the training stage: measure, train, save, load again, and only then `complete`
optimizer_steps    all optimizer steps, from the last checkpoint on; retries with a smaller micro batch
trainer            transformers' Trainer: logits only for labels, broken steps skipped
training_callback  between two steps: log, validate, keep the best adapter, stop
stopping           why a training stops early: a signal, patience or a budget, losses that went wrong
largest_batch      before the first step: is there something to learn, does the fullest batch fit
out_of_memory      memory that ran out: recognized, answered with a smaller micro batch, logged
checkpoints        checkpoints that are complete or not there, and the best adapter so far
training_log       log.jsonl, one event a line, and each event as a line of text
training_status    the state of a training, read from its files
trainer_process    starts the trainer as a process of its own, watches it, reports how it ended
trackers           TensorBoard, MLflow, Weights & Biases, Trackio: `report_to` sends the figures there
adapter_check      saves the adapter and proves it finite, changed, and as good on disk as in memory
processes          several processes at one training: torchrun or accelerate launch, on one machine or several
hang_detection     a note after every forward pass distinguishes a hung training from a slow one
fit_plan           for every machine: does the training fit, how long does it take, what does it cost
workload           steps, operations and seconds of a training, from the model's shapes
plan_table         the fit plan as a table, and after the run against what was measured
"""

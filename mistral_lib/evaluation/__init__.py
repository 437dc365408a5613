"""The evaluation stage: base model against adapter, and the verdict.

evaluate            the evaluation stage: base against adapter on the untouched test split, what was forgotten or learnt by heart, and the verdict
paired_difference   how much two models differ on the same records, with an interval, a test, and the smallest difference that could have been seen
measurements        what an evaluation has measured so far, on disk batch by batch: killed, it goes on with the next batch and ends the same
generation          greedy answers of base and adapter to a fixed, stratified sample of test prompts, in batches
answer_metrics      what can be counted on answers: do they end, repeat themselves, resemble the reference, keep a format, copy the training data
retention           the retention set: texts of other kinds than the training data, on which the evaluation measures what was forgotten
prompt_sensitivity  does the adapter still listen to its prompt? What a prompt is worth: how much less likely an answer is behind another one
memorization        has the adapter learnt the kind of text, or the training texts themselves? Two views, on losses and on answers
lm_eval_tasks       published tasks by name, through lm-eval: base and adapter in the model that is loaded already. An extra, which is not in the lock
verdict             the verdict: `ship`, `do not ship` or `not enough evidence`, from rules; the thresholds of forgetting and stopping stand in the params file
report              evaluation/report.html: one page that stands by itself, pictures inside, no outside request
cards               the model card and the dataset card, in the Hugging Face metadata form, from the numbers of a run and nothing else
"""

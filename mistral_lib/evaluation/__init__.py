"""The evaluation stage: base model against adapter, and the verdict.

evaluate            runs the stage: losses, answers, forgetting, memorization, verdict, report
measurements        measured batches on disk, so that a killed evaluation resumes
paired_difference   a difference with its interval, test and smallest detectable size
retention           the retention set, on which forgetting is measured
prompt_sensitivity  how much the right prompt is worth to base and adapter
memorization        gains on training records beyond test records; copied text
generation          greedy answers of both to a fixed sample of test prompts
answer_metrics      metrics of answers: ended, repetition, chrF, format
lm_eval_tasks       published tasks through lm-eval, an optional package
verdict             the rules, and `ship`, `do not ship` or `not enough evidence`
report              report.html: one self-contained page
cards               the model card and the dataset card
"""

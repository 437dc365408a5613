"""The evaluation stage: base model against adapter, and the verdict.

evaluate            runs the stage: losses, answers, forgetting, memorization, verdict, report
measurements        measured batches on disk, so that a killed evaluation resumes
paired_difference   a difference with its interval, test and smallest detectable size
general_answers     the general retention set: the base model's own answers, on which forgetting is measured
general_prompts     the prompts that it answers
retention           one's own retention set
prompt_sensitivity  how much the right prompt is worth to base and adapter
label_accuracy      label domains: accuracy, macro-F1 and confusion of base and adapter
memorization        gains on training records beyond test records; copied text
generation          greedy answers of both to a fixed sample of test prompts
answer_metrics      metrics of answers: ended, repetition, chrF, format
lm_eval_tasks       published tasks through lm-eval, an optional package
verdict             the rules, and `ship`, `do not ship` or `not enough evidence`
enough_data         before a training: enough steps, enough documents, and what `ship` needs
summary             the report's first lines: what was trained on what, and what to do next
result_tables       the tables and lines of notebook 04
report              report.html: one self-contained page
cards               the model card and the dataset card
"""

"""Checks for a machine with a GPU: `make gpu`, or `python -m tests.gpu [--out FOLDER] [--only NAME ...]`.

__main__         runs the checks in turn and writes their results; without CUDA it says so and runs nothing
bench            the device, a random model of Mistral's shape made on the spot, and prepared runs of it
results          one JSON and one Markdown table of all results
kernels_checks   4-bit products, attention by record, losses and gradients against float32
memory_checks    loading, the plan against measured peaks, running out of memory, memory before the reload
training_checks  autocast, overflow of float16, a stop and a resume
speed_checks     tokens a second of each way, of generation, of TRL and Unsloth
test_rehearsal   under pytest: the parts that need no CUDA, on a tiny model

Nothing is fetched: weights are random, the tokenizer is Mistral's v3 from mistral-common.
"""

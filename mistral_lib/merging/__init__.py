"""An adapter and its base model made one model, tensor by tensor, in the memory of a few tensors.

merged_weights   merges: a complete model folder, into 16-bit or dequantized NF4 weights
adapter_tensors  which weight each pair A, B belongs to, and what it adds to it
nf4_weights      the base model's weights as a training in NF4 sees them
shard_folder     a model folder written shard by shard, resumed, renamed when complete
tensor_files     safetensors files, read and written tensor by tensor
"""

"""Layers of a Mistral model that are faster than the plain ones and return the same, to rounding, and the loss.

installation       which of them a model gets, by its device, and why
fused_layers       LoRA projections, norms and gated MLP with fewer passes over memory
rotation           rotary position embedding that keeps only the angles
liger              liger-kernel's fused norm, rotation and gated unit, if it is installed, on newer GPUs
packed_attention   attention by record in packed blocks: the way for a device, chosen and tried
cpu_attention      for CPUs: attention record by record
cuda_attention     for GPUs: PyTorch's kernels for rows of different lengths
fused_loss         cross-entropy of a frozen output head in chunks, so that not all logits are in memory
paired_layers      base model and adapter in one forward pass, for measuring
row_threads        for CPUs only: the rows of a batch in parallel threads
"""

"""Records become token ids and labels in the model's chat format, and blocks of equal length.

control_tokens     control tokens such as [INST] or </s>, and the plain text between them
chat_template      what a base model's chat template puts around the messages, learnt once for each order of roles
template_analysis  whether a chat template only copies the messages' contents: then what it writes around one content, it writes around all
chat_segments      records as runs of text between control tokens, in the base model's own chat format; not yet as token ids
chat_format        records as token ids, in the base model's own chat format, and which of those tokens are graded
batch_encoding     many records as token ids at once: flat arrays instead of a list of numbers for each record
long_records       records longer than `max_tokens`: cut into windows at paragraph or line ends, truncated, or refused; what is lost is counted
packing            records packed into blocks of equal length, without cross-talk
packed_dataset     windows of tokens packed into blocks, as an Arrow dataset that `datasets.load_from_disk` opens; memory holds one batch of blocks
"""

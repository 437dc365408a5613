"""Records become token ids and labels in the model's chat format, and blocks of equal length.

control_tokens     control tokens such as [INST] or </s>, and the plain text between them
chat_template      what a base model's chat template writes around the messages, for each order of roles
mistral_versions   which of Mistral's chat formats a tokenizer has, v1 to v13
template_analysis  whether a chat template only copies the messages' contents
segment            one control token, or the text between two
tool_chats         chats with tools: as mistral-common writes them, by the chat template, or as text
mistral_tools      a chat with tools as mistral-common writes it, v3 to v13
tool_template      a chat with tools as the base model's own chat template writes it
chat_segments      records as segments: texts and control tokens in the model's chat format, not yet token ids
batch_encoding     records as token ids and graded tokens, many at once in flat arrays
chat_format        one record as token ids and labels; its prompt; its pieces and its mask for human eyes
long_records       records longer than `max_tokens`: split into windows, truncated or rejected; the loss is counted
packing            which records share a block, and the arrays of a block; no record attends to another
packed_dataset     packed blocks as an Arrow dataset: in which order, on disk or in memory
"""

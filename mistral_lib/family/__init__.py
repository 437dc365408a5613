"""The Mistral family: which models there are, their sizes, their layers and their tokenizers; without a hub and without weights.

published_models         the table: hub ids, class, sizes, tokenizer version and sources of each model
refused_models           models that the workbook cannot train, each with the reason and what to do instead
text_part                the language model of a multimodal checkpoint: its configuration and the names of its tensors
layer_classes            which classes of transformers compute the same, and for how many tokens
chat_templates           the chat template of each tokenizer version, as mistral-common writes it
sentencepiece_tokenizer  a fast tokenizer from a SentencePiece vocabulary that mistral-common ships
tekken_tokenizer         a fast tokenizer from a tekken vocabulary that mistral-common ships
"""

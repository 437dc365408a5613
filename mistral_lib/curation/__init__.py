"""What a corpus keeps: repairs, redaction, checks, duplicates, splits, mixture. Knows texts and arrays.

checks                named checks of a record, each flag, redact, reject or off by parameter: what is repaired, taken out, noted, refused
text_cleaning         text as a tokenizer should meet it: one Unicode form, one line end, nothing invisible — and code left as it was
boilerplate           what web pages and failed extractions leave in a corpus instead of an answer. Each function reads one text and says yes or no
repeated_patterns     placeholder text on the scale of a corpus: many records that are one sentence with another name or number in it
redaction             takes secrets and personal data out of a text and leaves typed placeholders such as <EMAIL>
redaction_rules       what a redaction rule is: a kind, cheap words that must be there, a precise pattern, and a check of the value
secret_patterns       private keys, provider tokens, URL credentials, and assignments that look like secrets
personal_data         E-mail addresses, telephone, account and card numbers, and the user names in home paths
near_duplicates       exact and near-duplicates among many texts: signatures on disk, candidates by banding, every pair verified on the texts themselves
minhash               what two texts have in common: word 5-grams, their exact Jaccard similarity, and MinHash signatures that find candidates
verified_pairs        pairs of texts whose similarity has been measured on the texts themselves, each pair once, in bounded memory
connected_components  which records hang together: connected components over ties, in flat memory
splits                leakage-free splits: whatever belongs together falls on one side, chosen by a hash and not by the order of files
split_minimums        knots held out by need: where the draws by hash leave a split, or a domain's part of it, empty
mixture               the training mixture: how much of each domain and of the operatives is trained on, counted in tokens
"""

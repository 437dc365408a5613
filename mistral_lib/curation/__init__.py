"""What a corpus keeps: repairs, redaction, checks, duplicates, splits, mixture. Knows texts and arrays.

checks                the checks of a record, each off, flag, redact or reject by parameter
text_cleaning         one Unicode form, one line end, nothing invisible; code stays as it is
boilerplate           detects cookie banners, menus, placeholders, refusals, HTML in place of an answer
code_requests         whether a prompt asks for code or markup
repeated_patterns     detects one sentence that many records repeat with another name, copied from the prompt
rejections            which parameter decides a rejection; reasons that take a large share of a source
redaction             replaces secrets and personal data by typed placeholders such as <EMAIL>
near_duplicates       exact and near-duplicates among many texts: candidates by banding, then verified
template_prompts      which prompts agree, without the template that many of them fill in
similarity            the exact similarity of two texts, and from where they are near-duplicates
minhash               MinHash signatures: sketches of texts that propose candidates
verified_pairs        verifies candidate pairs on the texts, each pair once, in bounded memory
equal_keys            positions of equal keys among many, in little memory
connected_components  connected components of records that are linked in pairs
label_domains         domains whose answers are a few labels or canned replies
splits                leakage-free splits: a connected component is in one split, assigned by hash; the leak
split_minimums        fills a split that the hashes leave empty
mixture               how much of each domain and of the operatives is trained on, in tokens
"""

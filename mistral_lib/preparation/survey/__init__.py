"""What is in the corpus, before anything is changed: found by workers in parts of it, taken together in its order.

row_facts       the work on a part: what is counted of each file, an entry of the index for each row, the sampled lengths
length_sample   characters and tokens of records with the smallest hashes: a sample that does not depend on their order
inventory       the parts taken together: an entry for each file, repeats among files, the totals
corpus_index    an index of every row of the corpus: numbers to filter by, the row in its file, near copies of one record
"""

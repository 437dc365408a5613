"""Figures, tables and the pages of the notebooks.

figure              what all figures share: colors, grounds, legends, how many bars are told apart, and the way into a page
text_table          A table of texts for eyes: prose stands left and wraps, counts stand right; headless it is plain lines
data_plots          figures of the data, one function each, returning the axes; those of losses are in loss_plots.py. Train and validation keep their colors
flow_plot           the way of all rows as one picture: rows read → fates → splits → windows → blocks, bands as wide as their counts
loss_plots          figures of losses, one function each, returning the axes: a training's curve, base against adapter, runs and alternatives
training_curve      the curves of a training as one picture, with those of an earlier one beside them to compare
widget_base         A box of widgets with a plain form, for wherever no widget can be shown
source_preview      A quick look at what a run would read: files, bytes, the shape of each first row at once; rows while one goes on
run_estimate        what a run would take, exactly as its parameters say: steps, hours, USD, memory, and where a budget would stop it
decision_form       the decisions of a run as a form: what is chosen is checked at once, and saved as the file that headless runs and notebooks take
corpus_explorer     the corpus explorer: filter and search the rows of a corpus, see each beside its record and its tokens, exclude records
row_view            one row of the corpus for human eyes: as it stands in its file, as the record it becomes, and as graded tokens
threshold_explorer  the preparation cockpit: move a threshold and see what it would do to counts, leak and tokens, on a sample
training_dashboard  the live page of a training: curve, rates, memory, time and money, and a button that saves and stops
kernel_messages     while a cell waits for hours, its kernel still answers a page that was closed and is opened again
votes               votes on pairs of answers, given without knowing which model wrote which: stored at once, counted with their interval
vote_page           the blind vote's page: a prompt, two answers in an order that hides who wrote them, and one key for each vote
side_by_side_chat   ask base and adapter the same thing and watch both answer at once, token by token, next to each other
"""

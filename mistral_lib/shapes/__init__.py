"""The content of a row becomes the messages of a chat, or the text of a document. Knows nothing of files or records.

cells         the filled cells of a row by plain key, and which of them were used; the error for a row that cannot be mapped
contents      the text of a message: a string, a list of parts, reasoning beside it
tools         tools and tool calls in one form
turns         the turns of a conversation in the forms that real corpora have, with uniform roles
tool_texts    the texts of a chat with tools, to be checked and redacted, and the chat with the changed texts
conversation  turns in regular order: a system text, then a question first and a graded answer at the end
chats         a row with a list of turns, a dialogue in one string, an export of a chat program, or a tree of replies
grading       which answers the row itself says are not to be learned: weights, thumbs, ratings
pairs         a row with a question and its answer, or a text and its label
choices       a row with a multiple-choice question and its options
preferences   a row with several answers of which one is preferred
annotations   a row of an annotation tool: a task and what a person wrote or chose
documents     a row with a plain text
row_shapes    the table of all row shapes, and the first that fits a row
expansion     a JSON value that holds several rows: articles with questions, lists of equal length
"""

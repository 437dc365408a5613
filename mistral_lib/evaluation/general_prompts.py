"""General prompts of twelve kinds, five each: what the base model answers to them is the text on which forgetting is measured.

They are about nothing that a corpus is likely to be about, and each asks for an answer of one to four sentences.
"""

PROMPTS: dict[str, tuple[str, ...]] = {
    "facts": (
        "What is the capital of Japan, and on which island is it?",
        "Why does the moon have phases?",
        "Name the three states of water and the temperatures between them.",
        "Who wrote Romeo and Juliet, and in which century?",
        "What do plants need to grow?",
    ),
    "arithmetic": (
        "A train travels 180 kilometers in 2 hours. What is its average speed?",
        "What is 15 percent of 80? Show the calculation.",
        "I buy 3 notebooks at 4 euros each and pay with 20 euros. How much do I get back?",
        "Count from 10 down to 1.",
        "Which is larger, 2/3 or 3/5? Explain in one sentence.",
    ),
    "letters": (
        "Write a short e-mail that thanks a colleague for her help with a move.",
        "Write two sentences that decline an invitation to a dinner, kindly.",
        "Write a short note to a neighbor about a parcel that you accepted for him.",
        "Write the first sentence of an application for a summer job in a library.",
        "Write a birthday greeting for a grandfather.",
    ),
    "summaries": (
        "Summarize in one sentence: The shop opened in 1950. It sold bread, later also cakes. In 2010 the owner's daughter took it over.",
        "Summarize in one sentence: The meeting moved from Monday to Thursday because two people are ill. The room stays the same.",
        "Give a title to this text: Every spring the storks come back to the village and build their nest on the church tower.",
        "What is the main point? Walking costs nothing, keeps the heart healthy and needs no equipment but shoes.",
        "Shorten to five words: The library will be closed for repairs until the end of next week.",
    ),
    "translation": (
        "Translate into French: Good morning, how are you?",
        "Translate into Spanish: The book is on the table.",
        "Translate into German: I would like a cup of tea, please.",
        "What does the Italian word 'grazie' mean?",
        "Translate into English: Où est la gare?",
    ),
    "code": (
        "Write a Python function that returns the larger of two numbers.",
        "Write a Python loop that prints the numbers from 1 to 5.",
        "What does the SQL statement SELECT COUNT(*) FROM users do?",
        "Write a regular expression that matches a date such as 2024-05-31.",
        "What is the difference between a list and a set in Python?",
    ),
    "manners": (
        "Hello! Can you help me?",
        "Thank you, that was very helpful.",
        "What is a polite way to interrupt somebody in a meeting?",
        "I am nervous about my first day at work. What would you say to me?",
        "Someone says: you are wrong. How does one answer calmly?",
    ),
    "explanations": (
        "Explain to a child why the sky is blue.",
        "How does a bicycle stay upright? Answer in two sentences.",
        "What is inflation? Answer in simple words.",
        "Why do we have leap years?",
        "How does a refrigerator keep food cold?",
    ),
    "lists": (
        "List three things to take on a hike.",
        "List the seasons of the year in order.",
        "Name four animals that live in the sea.",
        "Give three tips for sleeping better.",
        "List the ingredients of a simple tomato soup.",
    ),
    "stories": (
        "Tell a story of three sentences about a cat and a piano.",
        "Write a rhyme of two lines about rain.",
        "Describe an old kitchen in two sentences.",
        "Finish the sentence: When she opened the door, she saw",
        "Write a short dialogue between a baker and a customer.",
    ),
    "reasoning": (
        "All birds have feathers. A penguin is a bird. Does a penguin have feathers? Explain.",
        "Anna is older than Ben, and Ben is older than Carl. Who is the youngest?",
        "It rained last night and the street is wet. What is a likely reason, and what else could it be?",
        "If today is Wednesday, what day is it in three days?",
        "A box holds 4 red balls and 1 blue ball. Which color is drawn more often?",
    ),
    "advice": (
        "How do I write a good to-do list?",
        "What should I check before I buy a used bicycle?",
        "How can I remember names better?",
        "I have one free hour. What could I do without spending money?",
        "How do I make a cup of tea?",
    ),
}

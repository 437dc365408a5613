"""Corpora of everyday classification data, made up: reviews with their sentiment, messages with canned replies, questions with one word."""

import random
from collections.abc import Callable

PRAISE = ("wonderful", "excellent", "delightful", "superb", "charming", "brilliant", "lovely", "splendid")
BLAME = ("awful", "terrible", "dreadful", "broken", "useless", "disappointing", "horrible", "dull")
PLAIN = ("ordinary", "average", "usual", "common", "medium", "standard", "plain", "so-so")
WORDS_OF = {"positive": PRAISE, "negative": BLAME, "neutral": PLAIN}
THINGS = ("kettle", "lamp", "chair", "novel", "film", "hotel", "jacket", "phone", "camera", "bicycle", "tent", "guitar", "printer", "blender",
          "backpack", "mattress", "radio", "umbrella", "garden", "museum", "concert", "game", "laptop", "keyboard", "watch", "mirror")  # fmt: skip
PARTS = ("handle", "cover", "battery", "screen", "service", "sound", "colour", "taste", "staff", "price", "button", "zip", "cable", "manual",
         "box", "smell", "cushion", "motor", "lid", "strap")  # fmt: skip
TIMES = ("yesterday", "last week", "in spring", "on holiday", "for my sister", "after work", "this morning", "two months ago")
SENTENCES = (
    "The {part} of this {thing} is {word}.", "I bought the {thing} {time} and found the {part} {word}.",
    "My neighbour says that the {part} looks {word}.", "For a {thing} it is {word}, and the {part} is {word2}.",
    "{time}, the {part} was {word2} again.", "We used the {thing} {time}; what a {word} {part}.",
)  # fmt: skip
REPLIES = (
    "Thank you for your message. We have sent your parcel today and it will be with you soon.",
    "Thank you for your message. We are sorry to hear this and have told our technicians.",
)
PROBLEMS = ("does not start", "is too loud", "has a crack", "smells of smoke", "lost its colour", "stopped after a day", "leaks")
WAITS = ("has not come yet", "was to come on Monday", "is still on its way", "cannot be found in the tracking", "should have been here")
COLOURS = ("red", "blue", "green", "golden", "violet", "white", "black", "brown")


def review(rng: random.Random, label: str) -> str:
    words = WORDS_OF[label]
    chosen = rng.sample(SENTENCES, 3)
    return " ".join(_sentence(rng, pattern, words) for pattern in chosen)


def _sentence(rng: random.Random, pattern: str, words: tuple[str, ...]) -> str:
    made = pattern.format(part=rng.choice(PARTS), thing=rng.choice(THINGS), time=rng.choice(TIMES), word=rng.choice(words),
                          word2=rng.choice(words))  # fmt: skip
    return made[0].upper() + made[1:]


def sentiments(count: int = 1500) -> list[dict]:
    """Reviews whose words carry the label; the answer is a sentence that ends in it. Half of them are positive."""
    rng, rows = random.Random(12), {}
    while len(rows) < count:
        label = rng.choice(("positive", "positive", "negative", "neutral"))
        prompt = f"What is the sentiment of this review? {review(rng, label)}"
        rows[prompt] = f"The sentiment of this review is {label}."
    return [{"prompt": prompt, "completion": answer} for prompt, answer in rows.items()]


def canned(count: int = 800) -> list[dict]:
    """Customers' messages, each with one of two replies: parcels that are late, and things that do not work."""
    rng, rows = random.Random(13), {}
    while len(rows) < count:
        late = rng.random() < 0.6
        thing, colour, number = rng.choice(THINGS), rng.choice(COLOURS), rng.randrange(1000, 9999)
        what = rng.choice(WAITS if late else PROBLEMS)
        asked = f"Order {number}: the {colour} {thing} that I ordered {rng.choice(TIMES)} {what}. What can you tell me about the {rng.choice(PARTS)}?"
        rows[asked] = REPLIES[0 if late else 1]
    return [{"prompt": prompt, "completion": answer} for prompt, answer in rows.items()]


def words(count: int = 600) -> list[dict]:
    """Questions whose answer is one word: the colour of a thing in a list."""
    rng, rows = random.Random(14), {}
    while len(rows) < count:
        things, colours = rng.sample(THINGS, 3), rng.sample(COLOURS, 3)
        place = rng.randrange(3)
        listed = ", ".join(f"a {colour} {thing}" for colour, thing in zip(colours, things, strict=True))
        rows[f"On the table {rng.choice(TIMES)}: {listed}. Which colour has the {things[place]}?"] = colours[place]
    return [{"prompt": prompt, "completion": answer} for prompt, answer in rows.items()]


CORPORA: dict[str, Callable[[], list[dict]]] = {"sentiments": sentiments, "canned": canned, "words": words}

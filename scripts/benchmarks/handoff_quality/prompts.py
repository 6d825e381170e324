"""Fifty prompts: short questions, and long passages of Python's own reference, each ended by a question."""

from __future__ import annotations

from pydoc_data.topics import topics

QUESTIONS = (
    "Why is the sky blue?",
    "What is the capital of France, and what is it known for?",
    "Write a short poem about the sea.",
    "Explain photosynthesis to a child.",
    "How do I boil an egg?",
    "List five animals that live in the desert.",
    "What is the difference between a comet and an asteroid?",
    "Translate to French: The weather is nice today.",
    "What is 17 times 23?",
    "Write a Python function that reverses a string.",
    "Who wrote Romeo and Juliet?",
    "Give three tips for a job interview.",
    "What causes the tides?",
    "Name the planets of the solar system in order.",
    "Summarise the plot of Cinderella in two sentences.",
    "How does a bicycle stay upright?",
    "What is the boiling point of water at sea level?",
    "Describe the taste of a lemon.",
    "Why do leaves change colour in autumn?",
    "Write an e-mail that declines an invitation politely.",
    "What is a prime number? Give five examples.",
    "Explain how a refrigerator works.",
    "Tell a joke about a programmer.",
    "What should I pack for a week in the mountains?",
    "What is the opposite of generous?",
)
PASSAGE_CHARACTERS = (600, 1200, 2000, 3000, 4500)
TASKS = (
    "Summarise the text above in one sentence.",
    "Which problem does the text above solve?",
    "List three facts from the text above.",
    "What is the most important word of the text above?",
    "Write a title for the text above.",
)


def prompts() -> list[str]:
    """All fifty, the same every time for the same release of Python."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    starts = range(0, len(text), len(text) // (len(TASKS) * len(PASSAGE_CHARACTERS)))
    shapes = [(task, length) for task in TASKS for length in PASSAGE_CHARACTERS]
    passages = [
        f"{text[start : start + length]}\n\n{task}" for start, (task, length) in zip(starts, shapes, strict=False)
    ]
    return [*QUESTIONS, *passages]

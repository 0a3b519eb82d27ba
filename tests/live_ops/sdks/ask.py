"""`ask_*.py URL PROMPT...`: asks for a stream with each prompt, and prints what became of each as a line of JSON.

A line is `{"prompt", "text", "raised"}`: what came of the answer, and the type of error at its end, null for none.
"""

import json
import sys
from collections.abc import Callable, Iterator


def run(connect: Callable[[str], Callable[[str], Iterator[str]]]) -> None:
    """Ask with what gives, for a URL, what gives the pieces of an answer."""
    url, *prompts = sys.argv[1:]
    texts = connect(url)
    for prompt in prompts:
        text, raised = "", None
        try:
            for piece in texts(prompt):
                text += piece
        except Exception as error:  # noqa: BLE001  # whatever it raises is the answer
            raised = type(error).__name__
        print(json.dumps({"prompt": prompt, "text": text, "raised": raised}), flush=True)  # noqa: T201

"""Texts to ask, a teacher that is a function, and what a ledger holds."""

import json

TEXTS = ["w1 w2", "w3 w4 w5 w6 w7 w8", "w9", "w2 w4 w6 w8", "w5 w5 w5", "w40 w41 w42 w43 w44", "w7"]


class Shouting:
    """A teacher that is a function, and remembers what it was asked."""

    def __init__(self, missing=()):
        self.asked, self.calls, self.missing = [], 0, missing

    def __call__(self, texts):
        self.calls += 1
        self.asked += texts
        return [text.upper() for text in texts if text not in self.missing]


def lines(ledger):
    return [json.loads(line) for line in ledger.read_text().splitlines()]

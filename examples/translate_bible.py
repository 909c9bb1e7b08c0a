"""Translation: a small Marian teacher, and two students that learn from what it writes and how sure it is.

    python examples/data/bible_en_es.py
    python examples/translation_teacher.py --data bible_en_es.tsv.gz --output outputs/bible
    python examples/translate_bible.py --output benchmarks/results/translation.json

Two runs of `examples/recipes/translation.yaml`, about an hour each on one core:

- an LSTM student with attention;
- a Transformer student with the teacher's whole encoder and one layer of its decoder.

Each beside its teacher and the same student without one: the same first weights, steps and selection. BLEU and chrF on
John and Ecclesiastes, greedy and by beam search, with paired bootstrap intervals; words a second on the processor.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from hf_distill import Recipe, run_recipe

RECIPE = Path(__file__).parent / "recipes" / "translation.yaml"
RUNS: dict[str, list[str]] = {
    "LSTM with attention": [],
    "Transformer, 3 encoder layers and 1 decoder layer": [
        "--output_dir=outputs/translation-transformer",
        "--student.kind=transformer",
        "--student.config={num_hidden_layers: [3, 1]}",
        "--distill.num_train_epochs=2",
        "--distill.learning_rate=1.0e-3",
        "--export.onnx=false",
    ],
}


def summary(report: Any) -> dict[str, Any]:
    """The part of a report that the documentation shows."""
    return {
        "verses": report.examples,
        "models": report.models,
        "onnx": report.onnx,
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
    parser.add_argument("--output", type=Path)
    parser.add_argument("words", nargs="*", help="changes to the recipe, `-- --distill.sequences=8000` for instance")
    options = parser.parse_args()
    results: dict[str, Any] = {"command": "python examples/translate_bible.py"}
    for name, words in RUNS.items():
        results[name] = summary(run_recipe(Recipe.load(RECIPE, [*words, *options.words])))
        if options.output:
            options.output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

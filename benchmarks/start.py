"""What `import hf_distill` and the command line's help cost, in processor time beyond Python's own start.

    python benchmarks/start.py

Every round starts each command once, in turn; the medians of their processor times, user and system with all children,
are printed as one line of JSON, less that of `python -c pass`. Limits: 1 second for the package, `--help` and
`--version`; and `DistillationTrainer` costs at most a tenth more than `transformers.Trainer`.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys

COMMANDS = {
    "python": ["-c", "pass"],
    "import hf_distill": ["-c", "import hf_distill"],
    "--help": ["-m", "hf_distill", "--help"],
    "--version": ["-m", "hf_distill", "--version"],
    "Trainer": ["-c", "from transformers import Trainer"],
    "DistillationTrainer": ["-c", "from hf_distill import DistillationTrainer"],
}


def seconds(words: list[str]) -> float:
    """Processor time of a command that this process waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, words in COMMANDS.items():
            found[name].append(seconds(words))
    medians = {name: statistics.median(each) for name, each in found.items()}
    beyond = {name: round(value - medians["python"], 2) for name, value in medians.items() if name != "python"}
    ratio = beyond["DistillationTrainer"] / beyond["Trainer"]
    sys.stdout.write(
        json.dumps({"seconds beyond python": beyond, "DistillationTrainer / Trainer": round(ratio, 2)}) + "\n"
    )


if __name__ == "__main__":
    main()

"""Publishes a cache of the teacher's outputs as a data set."""

import json
from pathlib import Path

import datasets
from huggingface_hub import CommitOperationAdd, DatasetCard, HfApi

from hf_distill.checksums import damage
from hf_distill.hub.markdown import code
from hf_distill.hub.outgoing import check_whole, files_in, left_by_run
from hf_distill.hub.push import short_errors, with_owner
from hf_distill.redaction import redacted

# The card of a pushed cache.
OUTPUTS = """# Outputs of a teacher

The outputs ({columns}) of the teacher of [{student}](https://huggingface.co/{student}), one row for each text that it
read, and none of the texts. `provenance.json` tells which teacher and which options; `row_hash` is a hash of
the tokens that it read. To put the outputs to the same tokenised rows:

```python
from datasets import concatenate_datasets, load_dataset
from hf_distill.provenance import row_hashes

outputs = load_dataset({dataset}, split="train")
place = {{row_hash: number for number, row_hash in enumerate(outputs["row_hash"])}}
hashes = row_hashes(rows, {read})  # what the teacher reads; its own tokens are in teacher_input_ids
answers = outputs.select([place[each] for each in hashes.tolist()]).remove_columns("row_hash")
rows = concatenate_datasets([rows, answers], axis=1)
```
"""


def push_cache(folder: str | Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Publish the teacher's answers that a run left beside a student, as the data set `<repo_id>-teacher-outputs`.

    They are the answers and a hash of each row's inputs, without texts; the card of the data set tells how to put them
    to the same rows again. A second push replaces the first.

    Args:
        folder: of the student; `cache` stands beside it.
        repo_id: of the student; a name alone is in the namespace of the token's user.
        private: only where the repository is made.
        token: None: the one that `hf auth login` stored.
    Returns:
        The address of the data set.
    Raises:
        ValueError: there is no cache, a file of it was cut, or a link leads out of it.
        OSError: the Hub refused or broke off; one line that says what to do.
    """
    cache = check_cache(folder)
    shards = sorted(cache.rglob("shard-*.arrow"))
    for shard in shards:
        fault = damage(shard, unsealed=True)
        if fault is not None:
            raise ValueError(f"{shard} {fault}. Run the recipe again, which computes its rows anew; then push.")
    answers = datasets.concatenate_datasets([datasets.Dataset.from_file(str(shard)) for shard in shards])
    repo_id = with_owner(repo_id, token)
    to = f"{repo_id}-teacher-outputs"
    with short_errors(to, token):
        api = HfApi(token=token)
        answers.push_to_hub(to, private=private, token=token, commit_message="Add the teacher's outputs")
        card = DatasetCard.load(to, token=token)
        records = {file.relative_to(cache).as_posix(): file for file in sorted(cache.rglob("provenance.json"))}
        record = json.loads(next(iter(records.values())).read_text(encoding="utf-8"))
        card.text = OUTPUTS.format(
            student=repo_id,
            dataset=json.dumps(to),
            columns=", ".join(map(code, answers.column_names)),
            read=json.dumps(record.get("columns", ["attention_mask", "input_ids"])),
        )
        additions = [CommitOperationAdd("README.md", str(card).encode())]
        additions += [CommitOperationAdd(name, file) for name, file in records.items()]
        api.create_commit(to, additions, commit_message="Say where they come from", repo_type="dataset")
    return redacted(f"{api.endpoint}/datasets/{to}", token)


def check_cache(folder: str | Path) -> Path:
    """The teacher's cache beside a student.

    Args:
        folder: of the student.
    Raises:
        ValueError: there is none, a file of it was cut, or a link leads out of it.
    """
    cache = Path(folder).resolve().parent / "cache"
    if cache.is_symlink() or not any(cache.rglob("shard-*.arrow")):
        raise ValueError(
            f"Expected the teacher's cache in {cache}, where a recipe's run leaves it; there is none. Push without it, "
            "or from the folder of the run."
        )
    check_whole(files_in(cache, ["*.part", "*.lock", "inputs.json", "*.damaged*"]), left_by_run(cache))
    return cache

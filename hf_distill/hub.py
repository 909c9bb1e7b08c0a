"""The way to the Hub: one commit with everything a user needs and nothing else."""

from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import filter_repo_objects, validate_repo_id

NEEDED = ("config.json", "model.safetensors", "README.md")
# Training state, caches and logs; training_args.bin and the logs would also give away paths and the machine's name.
NOT_PUSHED = (
    "_*",
    "*/_*",
    ".*",
    "*/.*",
    "checkpoint-*",
    "last-checkpoint/*",
    "cache/*",
    "runs/*",
    "logs/*",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "trainer_state.json",
    "rng_state*.pth",
    "*.arrow",
    "*.tmp",
    "*.lock",
)


def push(folder: str | Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Publish a student in one commit; training state and names that start with "_" or "." stay behind.

    Files that are there already are not sent again: pushing what is published makes no commit.

    Args:
        folder: with `config.json`, `model.safetensors` and `README.md`.
        repo_id: "user/name"; made if it is missing.
        private: only where the repository is made.
        token: None: the one that `hf auth login` stored.
    Returns:
        The address of the commit, or of the last one where nothing is new.
    Raises:
        ValueError: a needed file is missing.
        OSError: the Hub refused or broke off; one line that says what to do.
    """
    folder = Path(folder)
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is not a finished student: {', '.join(missing)} is missing. Save the model there with "
            "save_pretrained, and write its card with hf_distill.card.model_card."
        )
    return publish(
        folder, repo_id, message="Add the distilled student, its report and its card", private=private, token=token
    )


def publish(
    folder: str | Path, repo_id: str, *, message: str, private: bool = False, token: str | None = None, **kind: Any
) -> str:
    """Make a repository if it is missing, and send a folder to it in one commit, without what `NOT_PUSHED` names.

    Args:
        folder: with all that should be there.
        repo_id: "user/name".
        message: title of the commit.
        private: only where the repository is made.
        token: None: the one that `hf auth login` stored.
        kind: `repo_type` of anything but a model, and for a Space its `space_sdk`.
    Returns:
        The address of the commit, or of the last one where nothing is new.
    Raises:
        OSError: the Hub refused or broke off; one line that says what to do.
    """
    folder = Path(folder)
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    # Not upload_folder: since huggingface_hub 2.4 it may cut a folder into several commits, and between two of them the
    # Hub would offer a student without its code or its card.
    additions = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name)
        for name in filter_repo_objects(files, ignore_patterns=list(NOT_PUSHED))
    ]
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True, **kind)
        commit = api.create_commit(repo_id, additions, commit_message=message, repo_type=kind.get("repo_type"))
    except (HTTPError, RuntimeError) as error:  # RuntimeError: what huggingface_hub wraps a failed file's error in
        raise OSError(f"{repo_id}: {_why_refused(error)}") from error
    return commit.commit_url


def is_hub_id(name: str) -> bool:
    """Whether a name can only mean a repository on the Hub: "user/name" or "name", and no folder here is called that.

    >>> is_hub_id("google-bert/bert-base-uncased"), is_hub_id("/data/teacher"), is_hub_id("./teacher")
    (True, False, False)
    """
    if Path(name).exists() or name.startswith((".", "~", "/")):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _why_refused(error: BaseException) -> str:
    """One line for what huggingface_hub says in five, with what to do."""
    reason = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
    if not isinstance(reason, HfHubHTTPError):
        said = " ".join(str(reason).split()) or type(reason).__name__
        return f"the connection to the Hub failed ({said}). Push again: files that arrived are not sent twice."
    status = reason.response.status_code
    # Of a 401 huggingface_hub says that the repository is missing, although the token usually is what is wrong.
    advice = {
        401: "the token is missing, wrong or expired. Log in with `hf auth login`, or set HF_TOKEN",
        403: "the token may not write there. Log in with one that has the role write and covers this repository",
        404: "there is no such user, organisation or repository, or the token may not see it",
        409: "the repository is being changed by something else. Push again",
        412: "the repository was changed meanwhile. Push again",
        429: "too many requests. Wait some minutes, then push again",
    }.get(status, "an error of the Hub, see https://status.huggingface.co. Push again later" if status >= 500 else "")
    said = " ".join((reason.response.headers.get("X-Error-Message") or reason.server_message or "").split())
    return f"the Hub answered {status}{f' ({said})' if said else ''}{f': {advice}' if advice else ''}."

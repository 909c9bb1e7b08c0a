"""The way to the Hub: one commit with everything a user needs and nothing else."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import filter_repo_objects, validate_repo_id

from hf_distill.hub.outgoing import check_link, check_whole, files_in, left_by_run
from hf_distill.hub.usage import BEGIN, addressed
from hf_distill.paths import read_yaml
from hf_distill.plain_yaml import yaml_fault
from hf_distill.redaction import presentable, redacted, shareable, shareable_config

logger = logging.getLogger(__name__)

NEEDED = ("config.json", "model.safetensors", "README.md")
# What a training goes on from, beside the weights: of use in a checkpoint alone.
STATE = ("_*", "optimizer.pt", "scheduler.pt", "scaler.pt", "trainer_state.json", "rng_state*.pth")
# Caches, logs and what tells of the machine: training_args.bin holds the Hub's token and paths, and nothing reads it.
PRIVATE = (
    "*/_*",
    ".*",
    "*/.*",
    "checkpoint-*",
    "last-checkpoint/*",
    "cache/*",
    "runs/*",
    "logs/*",
    "training_args.bin",
    "*.arrow",
    "*.tmp",
    "*.lock",
    "*.damaged*",  # set aside by a later run, and not part of the student
    "*.edited*",
)
NOT_PUSHED = (*STATE, *PRIVATE)
# Formats that weights are kept in, and those of them that a student has.
WEIGHTS = tuple(
    f"*.{ending}"
    for ending in (
        *("safetensors", "bin", "pt", "pth", "ckpt", "pkl", "pickle", "joblib", "npz", "npy", "h5", "keras", "msgpack"),
        *("ot", "gguf", "ggml", "onnx", "tflite", "mlmodel", "mlpackage", "pdparams", "ptl", "pte", "engine"),
    )
)
OWN_WEIGHTS = ("model.safetensors", "onnx/*.onnx")
OF_RECIPE = ("task", "data", "teacher", "output_dir", "seed")  # the last key that a run writes is seed
# What only a run writes, and tells of other weights where a later push lacks it.
REPLACED = ("onnx/*.onnx", "report.json", "report.png")


def push(folder: str | Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Publish a student in one commit; training state and names that start with "_" or "." stay behind.

    Files that are there already are not sent again: pushing what is published makes no commit. ONNX files and a report
    that an earlier push left, and this one has not, are deleted with it; nothing else is. The usage in the card
    that is sent loads the student from `repo_id`, and the `recipe.yaml` that a run left beside the folder goes along,
    see `recipe_of` and `redaction.shareable`; the files on disk stay as they are. Before anything is sent, every file
    is checked, see `outgoing.check_whole`, and links that lead out of the folder are refused.

    Args:
        folder: with `config.json`, `model.safetensors` and `README.md`.
        repo_id: "user/name"; made if it is missing. A name alone is in the namespace of the token's user.
        private: only where the repository is made.
        token: None: the one that `hf auth login` stored.
    Returns:
        The address of the commit, or of the last one where nothing is new.
    Raises:
        ValueError: a needed file is missing, a file was cut, a link leads out of the folder, the card or the recipe is
            no YAML, or `repo_id` is none.
        OSError: the Hub refused or broke off; one line that says what to do.
    """
    folder = Path(folder)
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if (folder / "student").is_dir() and missing:
        raise ValueError(f"{folder} is a run: its student is in {folder / 'student'}. Push that.")
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    if missing:
        raise ValueError(
            f"{folder} is not a finished student: {', '.join(missing)} is missing. Save the model there with "
            "save_pretrained, and write its card with hf_distill.reports.card.model_card."
        )
    repo_id = with_owner(repo_id, token)
    files = files_in(folder, NOT_PUSHED)
    check_whole(files, left_by_run(folder))
    further = second_formats(folder)
    if further:
        logger.warning(
            "%s: %s will be published beside model.safetensors. hf_distill did not write this and cannot tell whether "
            "it holds the same weights: delete what does not.",
            folder,
            ", ".join(further),
        )
    made = _shareable_configs(files)
    made["README.md"] = _checked_card((folder / "README.md").read_text(encoding="utf-8"), repo_id)
    recipe = recipe_of(folder)
    if recipe is not None:
        made["recipe.yaml"] = shareable_recipe(recipe)
    return publish(
        folder,
        repo_id,
        message="Add the distilled student, its report and its card",
        private=private,
        token=token,
        made=made,
        replaced=REPLACED,
    )


def _shareable_configs(files: Mapping[str, Path]) -> dict[str, str]:
    """Configs with a folder of this machine or a token in them, as they are sent."""
    made = {}
    for name, path in files.items():
        if name.endswith("config.json"):
            content = json.loads(path.read_text(encoding="utf-8"))
            if shareable_config(content) != content:
                made[name] = json.dumps(shareable_config(content), indent=2, ensure_ascii=False) + "\n"
    return made


def with_owner(repo_id: str, token: str | None = None) -> str:
    """A repository's id with its owner: a name alone belongs to the user whose token it is, as in `hf upload`.

    Args:
        repo_id: "user/name", or "name".
        token: None: the one that `hf auth login` stored.
    Raises:
        ValueError: it is no id of a repository.
        OSError: no owner is named and there is no valid token.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"repo_id: expected user/name as the Hub allows it, got {repo_id!r}. {error}") from error
    if "/" in repo_id:
        return repo_id
    with short_errors(repo_id, token):
        try:
            return f"{HfApi(token=token).whoami()['name']}/{repo_id}"
        except LocalTokenNotFoundError as error:
            raise OSError(
                f"{repo_id}: expected user/name, or a name and a token that tells whose it is; there is no token. Log "
                "in with `hf auth login`, set HF_TOKEN, or name the owner."
            ) from error


def second_formats(folder: str | Path) -> list[str]:
    """The files of a push that hold weights in another format than those `hf_distill` writes.

    Args:
        folder: of the student, with `model.safetensors`, and in `onnx/` what `export_onnx` wrote.
    """
    names = [addition.path_in_repo for addition in additions(folder)]
    weights = filter_repo_objects(names, allow_patterns=list(WEIGHTS), ignore_patterns=list(OWN_WEIGHTS))
    return sorted(weights)


def recipe_of(folder: str | Path) -> Path | None:
    """The `recipe.yaml` that a run left beside a student, which is the `student` of its folder; None without one.

    Args:
        folder: of the student.
    Raises:
        ValueError: what stands there is no YAML, a link that leads elsewhere, or was cut.
    """
    student = Path(folder).resolve()
    path = student.parent / "recipe.yaml"
    if student.name != "student" or not path.is_file():
        return None
    check_link(path, student.parent)
    content = read_yaml(path)
    if left_by_run(student) and not (isinstance(content, dict) and set(OF_RECIPE) <= content.keys()):
        raise ValueError(
            f"{path} was cut, or is not the recipe of this run: expected {', '.join(OF_RECIPE)} in it. Delete it, and "
            "hf-distill run writes it again."
        )
    if not isinstance(content, dict) or not {"task", "output_dir", "teacher"} <= content.keys():
        return None
    report = student / "report.json"
    measured = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    other = isinstance(measured, dict) and measured.get("task") not in (None, content["task"])
    return None if other else path


def repo_id_of(folder: str | Path) -> str:
    """Where the recipe beside a student says that it goes: its `push.repo_id`.

    Args:
        folder: of the student.
    Raises:
        ValueError: there is none.
    """
    recipe = recipe_of(folder)
    wanted = (read_yaml(recipe).get("push") or {}).get("repo_id") if recipe else None
    if not wanted:
        raise ValueError(f"{folder} has no repository id. Add --repo-id user/name, or push.repo_id to its recipe.")
    return str(wanted)


def shareable_recipe(path: str | Path) -> str:
    """A recipe as it is published: what `redaction.shareable` leaves of it, in YAML.

    Args:
        path: of the recipe.
    Raises:
        ValueError: it is no YAML.
    """
    return yaml.safe_dump(shareable(read_yaml(path)), sort_keys=False, allow_unicode=True)


def _checked_card(text: str, repo_id: str) -> str:
    """The card that is sent, with a warning where one of hf_distill 0.1 may load the student from a local folder."""
    tags = read_card(text).data.get("tags") or []
    if "hf_distill" in tags and "generated_from_trainer" not in tags and BEGIN not in text:
        logger.warning(
            "README.md was written by hf_distill 0.1, whose cards cannot be addressed: its usage is published as it "
            "is. Check that it loads the student from %s, or write the card again with `hf-distill run`.",
            repo_id,
        )
    return addressed(text, repo_id)


def read_card(text: str) -> ModelCard:
    """A model card, whatever the Hub would say of its metadata.

    Args:
        text: of a `README.md`.
    Raises:
        ValueError: what stands between its lines of `---` is no YAML.
    """
    try:
        return ModelCard(text, ignore_metadata_errors=True)
    except yaml.YAMLError as error:
        raise ValueError(
            f"README.md: expected YAML between the two lines of ---. {yaml_fault(error)}. Mend it, or write the card "
            "again."
        ) from None


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    message: str,
    private: bool = False,
    token: str | None = None,
    made: Mapping[str, str] | None = None,
    replaced: Sequence[str] = (),
    **kind: Any,
) -> str:
    """Make a repository if it is missing, and send a folder to it in one commit, without what `NOT_PUSHED` names.

    Args:
        folder: with all that should be there.
        repo_id: "user/name"; a name alone is in the namespace of the token's user.
        message: title of the commit.
        private: only where the repository is made.
        token: None: the one that `hf auth login` stored.
        made: texts that are sent under these names, in place of such files or beside the others.
        replaced: patterns of names that are deleted there where they are not sent.
        kind: `repo_type` of anything but a model, and for a Space its `space_sdk`.
    Returns:
        The address of the commit, or of the last one where nothing is new.
    Raises:
        OSError: the Hub refused or broke off; one line that says what to do.
    """
    repo_id = with_owner(repo_id, token)
    added = additions(folder, made)
    api = HfApi(token=token)
    with short_errors(repo_id, token):
        api.create_repo(repo_id, private=private, exist_ok=True, **kind)
        there = api.list_repo_files(repo_id, repo_type=kind.get("repo_type")) if replaced else []
        stale = set(filter_repo_objects(there, allow_patterns=list(replaced))) - {each.path_in_repo for each in added}
        gone = [CommitOperationDelete(name) for name in sorted(stale)]
        commit = api.create_commit(repo_id, [*added, *gone], commit_message=message, repo_type=kind.get("repo_type"))
    return redacted(commit.commit_url, token)


def additions(
    folder: str | Path, made: Mapping[str, str] | None = None, *, to: str = "", left: Sequence[str] = NOT_PUSHED
) -> list[CommitOperationAdd]:
    """What one commit of a folder adds to a repository.

    `HfApi.upload_folder` (huggingface_hub 2.4) may cut a folder into several commits, and between two of them the Hub
    would offer a student without its code or its card.

    Args:
        folder: with the files.
        made: texts that are sent under these names, in place of such files or beside the others.
        to: the folder of the repository. Empty: its root.
        left: patterns of names that stay here.
    Raises:
        ValueError: a link leads out of the folder.
    """
    contents: dict[str, Any] = {**files_in(folder, left)}
    contents |= {name: text.encode() for name, text in (made or {}).items()}
    return [
        CommitOperationAdd(path_in_repo=f"{to}/{name}" if to else name, path_or_fileobj=content)
        for name, content in sorted(contents.items())
    ]


@contextmanager
def short_errors(repo_id: str, token: str | None = None) -> Iterator[None]:
    """What the Hub refuses, in one line without secrets: addresses of uploads are signed, and may name a user."""
    try:
        yield
    except (HTTPError, RuntimeError) as error:  # RuntimeError: what huggingface_hub wraps a failed file's error in
        raise OSError(f"{repo_id}: {redacted(_why_refused(error), token)}") from presentable(error, token)


def _why_refused(error: BaseException) -> str:
    """One line for what huggingface_hub says in five, with what to do."""
    reason = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
    if not isinstance(reason, HfHubHTTPError):
        line = " ".join(str(reason).split()) or type(reason).__name__
        return f"the connection to the Hub failed ({line}). Push again: files that arrived are not sent twice."
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
    line = " ".join((reason.response.headers.get("X-Error-Message") or reason.server_message or "").split())
    return f"the Hub answered {status}{f' ({line})' if line else ''}{f': {advice}' if advice else ''}."

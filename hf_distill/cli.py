"""`hf-distill init FILE`, `hf-distill run recipe.yaml`, `hf-distill push FOLDER` and `hf-distill space FOLDER`."""

import argparse
import shlex
import sys
from collections.abc import Sequence

from hf_distill import __version__

TASK_NAMES = ("text-classification", "token-classification", "translation", "text-generation")
INTERRUPTED = 130  # what a shell reports after Ctrl-C


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        words: the arguments after the program's name. None: those of this process.
    Returns:
        The exit status: 0; 1 after an error that the user can fix, which is printed without a traceback; or 130 after
        Ctrl-C.
    """
    parser = _parser()
    own, overrides = _parted(sys.argv[1:] if words is None else list(words))
    try:
        arguments, unknown = parser.parse_known_args(own)
        if unknown:
            from hf_distill.redaction import redacted

            parser.error(redacted(f"unrecognized arguments: {' '.join(unknown)}"))
        if arguments.command == "run":
            return _run(arguments, overrides)
        return {"init": _init, "push": _push, "space": _space}[arguments.command](arguments)
    except (ValueError, OSError, ImportError) as error:  # OSError: no such file, model or data set, or no network
        from hf_distill.redaction import redacted

        sys.stderr.write(f"hf-distill: {redacted(str(error))}\n")
        return 1
    except KeyboardInterrupt as error:
        sys.stderr.write(f"\nhf-distill: {str(error) or 'Interrupted.'}\n")
        return INTERRUPTED


def _parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line's own words, and those that replace keys of the recipe of `run`, in whatever order they stand.

    A key has a value, in the same word or in the next one; so it is known which word is the recipe.
    """
    if list(words[:1]) != ["run"]:
        return list(words), []
    own, overrides, pending = ["run"], [], list(words[1:])
    while pending:
        word = pending.pop(0)
        name = word.partition("=")[0]
        if not word.startswith("--") or name in RUN_OPTIONS:
            own.append(word)
            if word == "--only" and pending:
                own.append(pending.pop(0))
        else:
            overrides.append(word)
            if "=" not in word and pending:
                overrides.append(pending.pop(0))
    return own, overrides


# Of `run`; whatever else starts with -- is a key of the recipe.
RUN_OPTIONS = ("--help", "--only", "--dry-run", "--verify")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-distill", description="Distil a teacher into a small student and publish it."
    )
    parser.add_argument("--version", action="version", version=f"hf-distill {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    init_words = commands.add_parser("init", help="look at a data file and write a recipe for it")
    init_words.add_argument("file", help="csv, tsv, json, jsonl, parquet, arrow, CoNLL, a folder of them, or a Hub id")
    init_words.add_argument("--output", metavar="FILE", help="the recipe (default: the data's name with .yaml, here)")
    init_words.add_argument("--task", choices=TASK_NAMES, help="default: what the columns look like")
    init_words.add_argument("--text", metavar="COLUMN", action="append", help="of the text; twice for pairs of texts")
    init_words.add_argument("--label", metavar="COLUMN", help="of the label or the tags; of a translation, its target")
    init_words.add_argument("--options", metavar="YAML", help="of a csv: '{sep: \";\", encoding: cp1252}'")
    init_words.add_argument("--teacher", metavar="NAME", help="a Hub id or a folder (default: one that fits the task)")
    run_words = commands.add_parser(
        "run",
        help="run a recipe, skipping finished steps",
        description="Any key of the recipe can follow as --section.key VALUE, for example --distill.temperature 4.",
    )
    run_words.add_argument(
        "recipe", help="a YAML file; `init` writes one, and the repository has some in examples/recipes/"
    )
    run_words.add_argument(
        "--only",
        metavar="STEP",
        help="stop after this step: teacher, cache, initialize, distill, controls, seeds, export, compare or card",
    )
    run_words.add_argument("--dry-run", action="store_true", help="show what would run and why, and run nothing")
    run_words.add_argument(
        "--verify", action="store_true", help="compare the content of all files of finished steps with their record"
    )
    push_words = commands.add_parser("push", help="publish a student's folder on the Hub")
    push_words.add_argument(
        "folder", help="the student's folder, with its model card; a recipe.yaml beside it is published too"
    )
    push_words.add_argument("--repo-id", help="user/name on the Hub (default: push.repo_id of the run's recipe)")
    push_words.add_argument("--public", action="store_true", help="make it public (default: private)")
    push_words.add_argument(
        "--with-cache",
        action="store_true",
        help="also publish the teacher's outputs, from the cache beside the folder, as REPO_ID-teacher-outputs",
    )
    space_words = commands.add_parser("space", help="write an app that shows teacher and student side by side")
    space_words.add_argument("folder", help="the folder of a finished run, or of a student")
    space_words.add_argument(
        "--output", metavar="DIR", help="the app's folder (default: space, beside the student's folder)"
    )
    space_words.add_argument("--teacher", metavar="NAME", help="a folder or Hub id (default: the run's teacher)")
    space_words.add_argument(
        "--example", action="append", default=[], metavar="TEXT", help="an example text to click on; may be repeated"
    )
    space_words.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="allow code in the models' folders that hf_distill did not write",
    )
    space_words.add_argument("--push", metavar="USER/NAME", help="publish it as a Space")
    space_words.add_argument("--public", action="store_true", help="make it public (default: private)")
    return parser


# What the commands need is imported in them, to keep --help fast.


def _init(arguments: argparse.Namespace) -> int:
    import datasets

    from hf_distill.recipes.first_recipe import parse_options, write_recipe

    datasets.disable_progress_bars()  # one for each reading of a file
    written = write_recipe(
        arguments.file,
        arguments.output,
        task=arguments.task,
        text=arguments.text,
        label=arguments.label,
        teacher=arguments.teacher,
        options=None if arguments.options is None else parse_options(arguments.options),
    )
    command = f"hf-distill run {shlex.quote(str(written))}"
    sys.stdout.write(f"{written}: look at its comments, then\n  {command} --dry-run\n  {command}\n")
    return 0


def _run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    import rich
    from transformers.utils import logging

    from hf_distill.recipes.recipe import Recipe
    from hf_distill.recipes.run import plan_recipe, run_recipe

    logging.set_verbosity_error()
    recipe = Recipe.load(arguments.recipe, overrides)
    if arguments.dry_run:
        planned = plan_recipe(recipe, verify=arguments.verify)
        rich.print(planned.details())
        return 1 if planned.refusals else 0
    report = run_recipe(recipe, only=arguments.only, verify=arguments.verify)
    if report is not None and arguments.only in (None, "card"):  # None in all processes but the main one
        sys.stderr.write(_what_next(f"{recipe.output_dir}/student"))
    return 0


def _what_next(student: str) -> str:
    folder = shlex.quote(student)
    return (
        f"The student is in {student}, its card in {student}/README.md.\n"
        f"  hf-distill space {folder}    # an app that shows teacher and student side by side\n"
        f"  hf-distill push {folder} --repo-id user/name    # publish it, private unless --public is given\n"
    )


def _push(arguments: argparse.Namespace) -> int:
    from hf_distill.hub.cache import check_cache, push_cache
    from hf_distill.hub.push import push, repo_id_of

    private = not arguments.public
    if arguments.with_cache:
        check_cache(arguments.folder)  # before anything is published
    repo_id = arguments.repo_id or repo_id_of(arguments.folder)
    sys.stdout.write(f"{push(arguments.folder, repo_id, private=private)}\n")
    if arguments.with_cache:
        sys.stdout.write(f"{push_cache(arguments.folder, repo_id, private=private)}\n")
    return 0


def _space(arguments: argparse.Namespace) -> int:
    from hf_distill.space.build import push_space, write_space

    written = write_space(
        arguments.folder,
        arguments.output,
        teacher=arguments.teacher,
        examples=arguments.example,
        trust_remote_code=arguments.trust_remote_code,
    )
    sys.stdout.write(f"{written}: python {written / 'app.py'}\n")
    if arguments.push is not None:
        sys.stdout.write(f"{push_space(written, arguments.push, private=not arguments.public)}\n")
    return 0

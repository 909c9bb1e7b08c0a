"""Models that write, compared: against sacrebleu's own figures, and against closed forms."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from sacrebleu import corpus_bleu, corpus_chrf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    set_seed,
)

from hf_distill.evaluation.bootstrap import draws, estimate
from hf_distill.metrics import load
from hf_distill.reports.generation import agreement, compare_generation, reply_nats, variety
from hf_distill.reports.texts import most_different
from hf_distill.reports.translation import compare_translation
from hf_distill.reports.writer import Writer

SIZES = {"layers": 1, "attention_heads": 2, "ffn_dim": 16}
SAID = ["el gato come pan hoy", "la casa es grande y roja", "yo veo un perro", "no hay nada que ver"]
TRUE = ["el gato come pan", "la casa es roja y grande", "yo veo un perro", "no hay nada que ver aquí"]


@pytest.mark.parametrize(("name", "reference"), [("sacrebleu", corpus_bleu), ("chrf", corpus_chrf)])
def test_a_resampled_corpus_scores_as_sacrebleu_scores_it(name, reference):
    said, true = (np.array(texts, dtype=object) for texts in (SAID, TRUE))
    found = estimate(load(name), said, true, resamples=20, seed=3)
    assert found.value == pytest.approx(reference(SAID, [TRUE]).score)
    rows = np.concatenate(list(draws(len(SAID), 20, 3)))
    expected = [reference(said[row].tolist(), [true[row].tolist()]).score for row in rows]
    assert found.drawn == pytest.approx(expected)


def test_bits_a_byte_are_of_all_texts_together():
    nats, texts = np.array([2.0, 6.0]), np.array(["ab", "añ"], dtype=object)  # 2 and 3 bytes
    found = estimate(load("bits_per_byte"), nats, texts, resamples=50, seed=0)
    assert found.value == pytest.approx(8 / math.log(2) / 5)
    of_one = {2 / math.log(2) / 2, 6 / math.log(2) / 3, found.value}
    assert all(min(abs(value - each) for each in of_one) < 1e-9 for value in found.drawn)


def writer(seed: int, words: int = 12, **config) -> Writer:
    tokens = ["<pad>", "<end>", *(f"w{number}" for number in range(words))]
    backend = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    tokenizer.model_max_length = 64
    set_seed(seed)
    settings = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokens),
            max_position_embeddings=64,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            initializer_range=0.5,
            **{**settings, **config},
        )
    ).eval()
    return Writer(model, tokenizer)


def translator(seed: int, **config) -> Writer:
    tokenizer = writer(seed).tokenizer
    set_seed(seed)
    sizes = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in SIZES.items()}
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": None}
    settings = {"vocab_size": len(tokenizer), "d_model": 16, "max_position_embeddings": 64, **sizes, **tokens, **config}
    return Writer(MarianMTModel(MarianConfig(bos_token_id=None, **settings)).eval(), tokenizer)


def rows(number: int = 6) -> Dataset:
    generator = np.random.default_rng(0)
    ids = [generator.integers(2, 14, 4 + row).tolist() for row in range(number)]
    labels = [[-100, -100, *row[2:]] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "target_bytes": [3 * len(row) for row in ids]})


def test_nats_are_those_of_the_targets_whatever_the_batch():
    one, test = writer(0), rows()
    found = reply_nats(one, test, batch_size=4)
    for row, nats in zip(test, found, strict=True):
        with torch.no_grad():
            logits = one.model(torch.tensor([row["input_ids"]])).logits[0]
        expected = F.cross_entropy(logits[:-1], torch.tensor(row["labels"][1:]), ignore_index=-100, reduction="sum")
        assert nats == pytest.approx(float(expected), rel=1e-5)
    assert reply_nats(one, test, batch_size=1) == pytest.approx(found, rel=1e-5)


def test_a_model_agrees_with_itself():
    one = writer(0)
    same = agreement({"teacher": one, "student": one}, rows(), batch_size=2)
    assert same["agreement"] == 1 and same["kl"] == pytest.approx(0, abs=1e-5)
    assert same["tokens"] == sum(label != -100 for row in rows()["labels"] for label in row[1:])
    other = agreement({"teacher": one, "student": writer(1)}, rows(), batch_size=4)
    assert other["agreement"] < 1 and other["kl"] > 0.05


def test_fidelity_of_translators_is_to_what_the_teacher_writes():
    """Whatever the data's targets are."""
    sources = [f"w{number} w{number + 1}" for number in range(8)]
    dataset = Dataset.from_dict({"source": sources, "target": ["casa"] * 8})
    two = {"teacher": translator(0), "student": translator(0)}
    options = {"num_beams": 2, "max_new_tokens": 4, "resamples": 20}
    same = compare_translation(two, dataset, **options).fidelity
    assert same["agreement"] == 1 and same["examples"] == 8
    assert same["chrf"]["value"] == pytest.approx(100)
    two["student"] = translator(1)
    other = compare_translation(two, dataset, **options).fidelity
    taught, learnt = (two[name].writes(4)(sources) for name in ("teacher", "student"))
    assert other["agreement"] == np.mean(np.array(taught) == np.array(learnt)) < 1
    assert 0 < other["chrf"]["value"] == pytest.approx(corpus_chrf(learnt, [taught]).score, abs=1e-3)


def test_rows_that_pad_a_table_are_no_tokens():
    """The longer table may be either side's; what is left is a distribution again."""
    one, padded = writer(0), writer(0)
    padded.model.resize_token_embeddings(20, mean_resizing=False)
    for two in ({"teacher": padded, "student": one}, {"teacher": one, "student": padded}):
        same = agreement(two, rows())
        assert same["agreement"] == 1 and same["kl"] == pytest.approx(0, abs=1e-5)


def test_a_comparison_of_language_models():
    three = {"teacher": writer(0, num_hidden_layers=2), "student": writer(1), "baseline": writer(2)}
    prompts = ["w1 w2", "w3"]
    report = compare_generation(
        three, dict.fromkeys(three, rows()), prompts, max_new_tokens=4, quote=True, resamples=50
    )
    bits = {name: model["quality"]["bits_per_byte"]["value"] for name, model in report.models.items()}
    gain = report.differences["gain_over_best_control"]
    assert gain["value"] == pytest.approx(bits["baseline"] - bits["student"], abs=1e-4)
    assert report.ratios["smaller"] > 1 and report.ratios["quality_kept"] == pytest.approx(
        bits["teacher"] / bits["student"], rel=1e-4
    )
    assert report.models["student"]["replies"]["prompts"] == 2
    assert report.models["student"]["tokens_per_text"] == 1.5
    assert report.ratios["fewer_flops"] > 1
    nats, lengths = reply_nats(three["student"], rows()), np.array([len(row["input_ids"]) for row in rows()])
    part = report.breakdown["length"]["4-5 tokens"]
    assert part["examples"] == 2 and part["student"]["bits_per_byte"] == pytest.approx(
        nats[lengths <= 5].sum() / math.log(2) / (3 * lengths[lengths <= 5]).sum(), rel=1e-4
    )
    said = {name: three[name].writes(4)(prompts) for name in three}
    assert report.most_different and all(
        row["text"] == prompts[row["example"]]
        and (row["teacher"], row["student"])
        == tuple(said[name][row["example"]].strip() for name in ("teacher", "student"))
        for row in report.most_different
    )
    assert {row["model"] for row in report.speed} == {"teacher", "student"}
    assert "by the token that is written" in report.environment["timing"]
    assert 0 < report.fidelity["agreement"] < 1


def test_a_teacher_that_translates_nothing_right_has_no_quality_to_keep():
    """A division by its BLEU of 0 would lose the rest of the report."""
    two = {"teacher": translator(0, decoder_layers=2), "student": translator(1)}
    dataset = Dataset.from_dict({"source": ["w1 w2", "w3", "w4 w5 w6"], "target": ["casa roja", "perro", "gato"]})
    report = compare_translation(two, dataset, num_beams=2, max_new_tokens=4, resamples=20)
    assert report.models["teacher"]["quality"]["sacrebleu"]["value"] == 0
    assert "quality_kept" not in report.ratios and report.ratios["smaller"] > 1
    assert set(report.models["student"]["quality"]) == {"sacrebleu", "chrf", "sacrebleu_beam", "chrf_beam"}


def test_two_vocabularies_of_one_size_have_no_tokens_in_common():
    two = {"teacher": writer(0), "student": writer(1)}
    two["student"].tokenizer.add_tokens(["other"])
    two["teacher"].tokenizer.add_tokens(["another"])
    report = compare_generation(two, dict.fromkeys(two, rows()), ["w1"], max_new_tokens=2, resamples=5)
    assert report.fidelity == {}


def test_other_texts_do_not_compare():
    two = {"teacher": writer(0), "student": writer(1)}
    shorter = rows().map(lambda row: {"target_bytes": row["target_bytes"] - 1})
    with pytest.raises(ValueError, match="bits a byte of other texts do not compare"):
        compare_generation(two, {"teacher": shorter, "student": rows()}, ["w1"])


def test_variety():
    assert variety(["a b a", "a b"], 1) == pytest.approx(2 / 5)
    assert variety(["a b a", "a b"], 2) == pytest.approx(2 / 3)


def test_the_most_different_texts_come_first():
    taught = np.array(["the cat eats", "the same", "a b c d", "one two three"], dtype=object)
    learnt = np.array(["the cat eat", "the same", "x y z", "one two"], dtype=object)
    found = most_different(["w", "x", "y", "z"], taught, learnt, np.array(["t"] * 4, dtype=object))
    assert [row["example"] for row in found] == [2, 3, 0]  # what is the same is not among them
    assert found[1] == {
        "example": 3,
        "chrf": pytest.approx(corpus_chrf(["one two"], [["one two three"]]).score),
        "text": "z",
        "teacher": "one two three",
        "student": "one two",
        "label": "t",
    }
    # Where both write nothing they differ in nothing, and take nobody's place.
    nothing = np.array([""] * 12, dtype=object)
    found = most_different(["w"] * 16, np.concatenate([nothing, taught]), np.concatenate([nothing, learnt]))
    assert [row["example"] for row in found] == [14, 15, 12]
    many = np.array([f"{number} one" for number in range(20)], dtype=object)
    assert len(most_different(many.tolist(), many, many[::-1])) == 10
    assert "label" not in most_different(["w"], taught[:1], learnt[:1])[0]
    assert set(most_different(["w"], taught[:1], learnt[:1], quote=False)[0]) == {"example", "chrf"}


def test_further_trainings_count_as_one():
    """Means over the seeds of what each is alone."""
    dataset = Dataset.from_dict({"source": ["w1 w2", "w3", "w4 w5 w6"], "target": ["w1 w2", "w4", "w5 w6"]})
    pairs = [(translator(1), translator(2)), (translator(3), translator(4)), (translator(5), translator(6))]
    options = {"metrics": ("chrf",), "num_beams": 2, "max_new_tokens": 4, "resamples": 20, "detailed_costs": False}

    def report(first, *more):
        models = {"teacher": translator(0), "student": first[0], "baseline": first[1]}
        return compare_translation(models, dataset, more_students=more, **options)

    alone = [report(pair) for pair in pairs]
    together = report(*pairs)
    assert together.seeds == 3 and alone[0].seeds == 1
    assert together.speed == []
    for name in ("student", "baseline"):
        for metric in ("chrf", "chrf_beam"):
            values = [one.models[name]["quality"][metric]["value"] for one in alone]
            quality = together.models[name]["quality"][metric]
            assert quality["values"] == values and quality["value"] == pytest.approx(np.mean(values), rel=1e-4)
    assert together.models["teacher"]["quality"] == alone[0].models["teacher"]["quality"]
    assert together.fidelity == alone[0].fidelity and together.breakdown == alone[0].breakdown
    gains = [one.differences["gain_over_best_control"]["value"] for one in alone]
    assert together.differences["gain_over_best_control"]["value"] == pytest.approx(np.mean(gains), abs=1e-3)
    with pytest.raises(ValueError, match="Either each student has its baseline or none"):
        report(pairs[0], (translator(3), None))


def test_further_language_models_count_as_one():
    one, two = ({"teacher": writer(0), "student": writer(seed)} for seed in (1, 2))
    options = {"max_new_tokens": 2, "detailed_costs": False}
    alone = [compare_generation(each, dict.fromkeys(each, rows()), ["w1"], **options) for each in (one, two)]
    more = [(two["student"], None)]
    together = compare_generation(one, dict.fromkeys(one, rows()), ["w1"], more_students=more, **options)
    assert together.speed == []
    bits = [each.models["student"]["quality"]["bits_per_byte"]["value"] for each in alone]
    quality = together.models["student"]["quality"]["bits_per_byte"]
    assert quality["values"] == bits and quality["value"] == pytest.approx(np.mean(bits), rel=1e-4)
    assert together.seeds == 2 and together.models["student"]["replies"] == alone[0].models["student"]["replies"]


def test_what_is_written_is_counted_in_the_tokens_of_the_target():
    """A Marian model reads one language's pieces and writes another's."""
    one = writer(0)

    class TwoLanguages:
        def __call__(self, text=None, text_target=None, **options):
            return {"input_ids": [[0]] * len(text) if text_target is None else one.tokenizer(text_target)["input_ids"]}

    assert Writer(one.model, TwoLanguages()).tokens(["w1 w2 w3", ""]) == 3 + 0 + 2


def test_a_comparison_of_translators_by_length():
    """Quarters of the sources; what stands in each is what sacrebleu says of it alone."""
    dataset = Dataset.from_dict(
        {"source": [" ".join(["w1"] * (1 + row)) for row in range(8)], "target": [f"w{row} w2" for row in range(8)]}
    )
    two = {"teacher": translator(0, decoder_layers=2, d_model=32), "student": translator(1)}
    report = compare_translation(two, dataset, metrics=("chrf",), num_beams=2, max_new_tokens=4, resamples=20)
    parts = report.breakdown["length"]
    assert [part["examples"] for part in parts.values()] == [2, 2, 2, 2]
    said = two["student"].writes(4)(dataset["source"][:2])
    expected = corpus_chrf([text.strip() for text in said], [dataset["target"][:2]]).score
    assert next(iter(parts.values()))["student"]["chrf"] == pytest.approx(expected, abs=1e-3)
    assert {(row["model"], row["length"], row["batch"]) for row in report.speed} == {
        (model, length, batch)
        for model in ("teacher", "student")
        for length in ("short", "medium", "long")
        for batch in (1, 8, 32)
    }
    assert all(row["faster"]["value"] > 0 for row in report.speed if row["model"] == "student")
    teacher, student = report.models["teacher"], report.models["student"]
    assert report.ratios["fewer_flops"] == pytest.approx(
        teacher["flops_per_text"] / student["flops_per_text"], rel=1e-4
    )
    assert report.ratios["fewer_flops"] > 2
    assert student["tokens_per_text"] == 4.5  # the mean of 1 to 8
    for name in ("latency_ms", "throughput"):  # what writes reads texts: both ways are one
        assert student[f"end_to_end_{name.replace('latency_', '')}"] == student[name]

"""Caches of axolotl and DistillKit: what is in them comes out, and what is not known is refused."""

import datasets
import numpy as np
import pytest

from hf_distill import DistillationArguments, DistillationTrainer
from hf_distill.columns import all_numbers
from hf_distill.soft_targets.imports import from_axolotl, from_distillkit
from tests.cases import pad
from tests.teachers.models import tiny_llama

WORDS, K = 50, 6
CONFIG = {
    "d": WORDS,
    "k": K,
    "exact_k": 2,
    "exact_dtype": "float32",
    "polynomial_terms": [0, 1, "sqrt"],
    "term_dtype": "float32",
    "residual_bins": [{"scale_dtype": "float16", "element_bits": 5, "num_elements": 3}],
    "delta_encoding": False,
}


def distributions(ids, seed=0, length=None):
    """(positions, k) ids and log-probabilities in falling order; the next token is always among them."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(len(ids) if length is None else length, WORDS)) * 3
    for place, token in enumerate(ids[1:]):
        logits[place, token] = logits[place].max() - 0.5
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    best = np.argsort(-logprobs, axis=1)[:, :K]
    return best, np.take_along_axis(logprobs, best, axis=1)


def tokens(number=4, length=30):
    generator = np.random.default_rng(1)
    return [generator.integers(0, WORDS, length - n).tolist() for n in range(number)]


# axolotl


def axolotl(temperature=1.0, legacy=False):
    """Rows as axolotl prepares them: normalised over the k, padded where there is no label."""
    made, kept = [], []
    for number, ids in enumerate(tokens()):
        best, logprobs = distributions(ids, number)
        tempered = logprobs / temperature
        tempered -= np.logaddexp.reduce(tempered, axis=1, keepdims=True)
        labels = [-100, -100, *ids[2:]]
        mask = np.array([[int(label != -100)] * K for label in [*labels[1:], -100]])
        best, tempered = np.where(mask, best, np.arange(K)), np.where(mask, tempered, -np.inf)
        kept.append((best, tempered, mask[:, 0] != 0))
        if legacy:
            best, tempered, mask = (np.roll(each, 1, axis=0) for each in (best, tempered, mask))
        made.append(
            {
                "input_ids": ids,
                "labels": labels,
                "attention_mask": [1] * len(ids),
                "target_token_ids": best.tolist(),
                "target_logprobs": tempered.tolist(),
                "target_mask": mask.tolist(),
            }
        )
    return datasets.Dataset.from_list(made), kept


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_axolotls_columns(temperature, legacy):
    data, kept = axolotl(temperature, legacy)
    alignment = "legacy" if legacy else "current"
    made = from_axolotl(data, vocab_size=WORDS, temperature=temperature, alignment=alignment)
    assert made.column_names == [
        *("input_ids", "labels", "attention_mask"),
        *("teacher_top_k_logits", "teacher_top_k_ids", "teacher_tail", "teacher_temperature"),
    ]
    found = [all_numbers(made, name) for name in ("teacher_top_k_logits", "teacher_top_k_ids", "teacher_tail")]
    for number, (best, logprobs, known) in enumerate(kept):
        logits, ids, tail = (each[number] for each in found)
        assert np.array_equal(ids[known], best[known])
        assert logits[known] / temperature == pytest.approx(logprobs[known], abs=1e-5)
        assert np.isneginf(tail[known]).all() and np.isfinite(tail[~known]).all()
    assert set(made["teacher_temperature"]) == {temperature}


def test_a_trainer_learns_from_them(tmp_path):
    data = from_axolotl(axolotl()[0], vocab_size=WORDS, temperature=1.0)
    arguments = DistillationArguments(
        str(tmp_path),
        max_steps=2,
        temperature=1.0,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
        per_device_train_batch_size=2,
        save_strategy="no",
    )
    trainer = DistillationTrainer(tiny_llama(), arguments, train_dataset=data, data_collator=pad)
    trainer.train()
    losses = [entry["soft_loss"] for entry in trainer.state.log_history if "soft_loss" in entry]
    assert len(losses) == 2 and np.isfinite(losses).all()


def change(data, number, **columns):
    rows = data.to_list()
    rows[number].update(columns)
    return datasets.Dataset.from_list(rows)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"target_logprobs": [[0.0] * K] * 30}, "sum to a probability of 6"),
        ({"target_token_ids": [[*range(K - 1), WORDS]] * 30}, "has the token 50, and the vocabulary has 50"),
        ({"target_token_ids": [[1] * K] * 30}, "a token twice at one position"),
        ({"target_mask": [[0] * K] * 30}, "a label at position 2 and no distribution"),
        ({"target_mask": [[1] * K] * 29}, "columns of several lengths"),
        ({"target_token_ids": [[1]] * 30}, "keeps .1, 6. tokens a position"),
    ],
)
def test_axolotls_rows_that_are_not_known_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        from_axolotl(change(axolotl()[0], 0, **columns), vocab_size=WORDS, temperature=1.0)


def test_the_other_alignment_is_refused():
    with pytest.raises(
        ValueError, match=r"about the token at their own position. For axolotl choose alignment='legacy'"
    ):
        from_axolotl(axolotl(legacy=True)[0].remove_columns("labels"), vocab_size=WORDS, temperature=1.0)


def test_bad_arguments_for_axolotl():
    data = axolotl()[0]
    with pytest.raises(ValueError, match="expected current or legacy, got 'new'"):
        from_axolotl(data, vocab_size=WORDS, temperature=1.0, alignment="new")
    with pytest.raises(ValueError, match="temperature must be a finite number > 0"):
        from_axolotl(data, vocab_size=WORDS, temperature=0.0)
    with pytest.raises(ValueError, match="lacks target_mask"):
        from_axolotl(data.remove_columns("target_mask"), vocab_size=WORDS, temperature=1.0)


# DistillKit


def packed(numbers, bits):
    """(rows, bytes) of (rows, elements), the highest bit first."""
    single = (numbers[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(single.reshape(len(numbers), -1).astype(np.uint8), axis=1)


def compressed(logprobs, config):
    """Log-probabilities as DistillKit writes them, and what they are after it: a reference of its own."""
    values = logprobs.astype(np.float64)
    if config["delta_encoding"]:
        values = np.concatenate([values[:, :1], np.diff(values, axis=1)], axis=1)
    exact = values[:, : config["exact_k"]].astype(config["exact_dtype"])
    chunks, rest = [exact.view(np.uint8).reshape(len(values), -1)], values[:, config["exact_k"] :]
    fitted = np.zeros_like(rest)
    if config.get("polynomial_terms"):
        places = np.arange(rest.shape[1], dtype=np.float64)
        terms = [np.sqrt(places) if term == "sqrt" else places**term for term in config["polynomial_terms"]]
        points = np.stack(terms, axis=1)
        coefficients = np.linalg.lstsq(points, rest.T, rcond=None)[0].T.astype(config["term_dtype"])
        chunks.append(np.ascontiguousarray(coefficients).view(np.uint8).reshape(len(values), -1))
        fitted = coefficients.astype(np.float64) @ points.T
    start = 0
    for each in config["residual_bins"]:
        part = (rest - fitted)[:, start : start + each["num_elements"]]
        half = 2 ** (each["element_bits"] - 1)
        scale = (np.abs(part).max(axis=1, keepdims=True) / half).astype(each["scale_dtype"])
        scale[scale == 0] = 1
        numbers = np.clip(np.round(part / scale), -half, half - 1)
        chunks += [
            np.ascontiguousarray(scale).view(np.uint8),
            packed((numbers + half).astype(np.int64), each["element_bits"]),
        ]
        fitted[:, start : start + each["num_elements"]] += numbers * scale
        start += each["num_elements"]
    found = np.concatenate([exact.astype(np.float64), fitted], axis=1)
    return np.concatenate(chunks, axis=1), found.cumsum(axis=1) if config["delta_encoding"] else found


def distillkit(config):
    rows, kept = [], []
    for number, ids in enumerate(tokens()):
        best, logprobs = distributions(ids, number, len(ids) - 1)
        data, values = compressed(logprobs, config)
        kept.append((best, values, logprobs))
        rows.append(
            {
                "input_ids": ids,
                "compressed_logprobs": data.tolist(),
                "bytepacked_indices": packed(best.astype(np.int64), 6).tolist(),
            }
        )
    return datasets.Dataset.from_list(rows), kept


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"delta_encoding": True},
        {"polynomial_terms": None, "exact_k": 3, "exact_dtype": "float16"},
        {"exact_k": K, "residual_bins": [], "polynomial_terms": None},
        {"residual_bins": [{"scale_dtype": "float32", "element_bits": bits, "num_elements": 2} for bits in (8, 3)]},
    ],
)
def test_distillkits_columns(settings):
    config = CONFIG | settings
    data, kept = distillkit(config)
    made = from_distillkit(data, config=config)
    found = [all_numbers(made, name) for name in ("teacher_top_k_logits", "teacher_top_k_ids", "teacher_tail")]
    for number, (best, values, logprobs) in enumerate(kept):
        logits, ids, tail = (each[number] for each in found)
        assert np.array_equal(ids[:-1], best) and len(ids) == len(made[number]["input_ids"])
        assert logits[:-1] == pytest.approx(values, abs=1e-4)
        assert logits[:-1] == pytest.approx(logprobs, abs=0.7)  # it is a lossy compression
        assert np.exp(tail[:-1]) == pytest.approx(1 - np.exp(values).sum(axis=1), abs=1e-4)
    assert set(made["teacher_temperature"]) == {1.0}


def test_the_config_is_read_from_its_file(tmp_path):
    data, _ = distillkit(CONFIG)
    lines = [f"{name}: {value}" for name, value in CONFIG.items() if name not in ("residual_bins", "polynomial_terms")]
    bins = "residual_bins:\n- {scale_dtype: float16, element_bits: 5, num_elements: 3}"
    (tmp_path / "compression_config.yaml").write_text(
        "\n".join([*lines, "polynomial_terms: [0, 1, sqrt]", bins, "error_diffusion: true"])
    )
    read = from_distillkit(data, config=tmp_path / "compression_config.yaml")
    given = from_distillkit(data, config=CONFIG)
    assert read[0]["teacher_top_k_logits"] == given[0]["teacher_top_k_logits"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"predictor": 1}, "predictor is not known"),
        ({"exact_dtype": "bfloat16"}, "bfloat16 is not read here"),
        ({"polynomial_terms": [0, "log"]}, "expected whole numbers, sqrt or exp"),
        ({"exact_k": 3}, "bytes a position in compressed_logprobs, and its config says"),
        ({"d": 500}, "bytes a position in bytepacked_indices, and its config says"),
    ],
)
def test_distillkits_pieces_that_are_not_known_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        from_distillkit(distillkit(CONFIG)[0], config=CONFIG | settings)


def test_distillkits_older_layout_and_other_lengths_are_refused():
    data, _ = distillkit(CONFIG)
    with pytest.raises(ValueError, match=r"DistillKit's older layout \(packed_indices\)"):
        from_distillkit(data.rename_column("bytepacked_indices", "packed_indices"), config=CONFIG)
    with pytest.raises(ValueError, match="nothing is not known, and d is missing"):
        from_distillkit(data, config={name: value for name, value in CONFIG.items() if name != "d"})
    with pytest.raises(ValueError, match=r"Row 1 has 5 tokens, 28 positions"):
        from_distillkit(change(data, 1, input_ids=[1, 2, 3, 4, 5]), config=CONFIG)

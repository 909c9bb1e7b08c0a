"""Tags of entities: recognised, checked, and scored as what they are."""

import numpy as np
import pytest

from hf_distill.evaluation.counts import FROM_COUNTS, Items
from hf_distill.metrics import load
from hf_distill.tag_schemes import illegal_tags, spans_of, tag_scheme


@pytest.mark.parametrize(
    ("names", "sentence", "scheme", "illegal"),
    [
        (["B-A", "I-A", "O"], ["B-A", "I-A", "O", "B-A", "B-A"], "IOB2", 0),
        (["B-A", "I-A", "O"], ["I-A", "I-A", "B-A", "O", "I-A"], "IOB1", 0),
        (["B-A", "I-A", "I-B", "O"], ["B-A", "I-B", "O", "B-A", "I-A"], "IOB2", 1),
        (["B-A", "I-A", "E-A", "S-A", "O"], ["B-A", "I-A", "E-A", "S-A", "O"], "IOBES", 0),
        (["B-A", "E-A", "S-A", "O"], ["B-A", "O", "E-A", "B-A"], "IOBES", 3),
        (["B-A", "L-A", "U-A", "O"], ["B-A", "L-A", "U-A", "U-A", "O"], "BILOU", 0),
        (["B-A", "L-A", "U-A", "O"], ["B-A", "U-A", "L-A"], "BILOU", 2),
        (["B-A", "M-A", "E-A", "S-A", "O"], ["B-A", "M-A", "M-A", "E-A", "O"], "IOBES", 0),
        (["B-A", "M-A", "E-A", "W-A", "O"], ["B-A", "M-A", "E-A", "W-A", "O"], "IOBES", 0),
    ],
)
def test_schemes_are_recognised_and_checked(names, sentence, scheme, illegal):
    assert illegal_tags([sentence], tag_scheme(names)) == (scheme, illegal)


@pytest.mark.parametrize("names", [["NN", "O"], ["I", "S"], ["O"], [], ["B-A", "x"]])
def test_other_tags_have_no_scheme(names):
    assert tag_scheme(names) is None


SCORED = [
    (["B-A", "L-A", "U-A", "U-A", "O"], ["B-A", "L-A", "U-A", "O", "O"], 2 * 2 / (2 + 3)),
    (["B-A", "E-A", "S-A", "S-A", "O"], ["B-A", "I-A", "S-A", "S-A", "O"], 2 * 2 / (2 + 3)),  # no end, no entity
    (["B-A", "M-A", "E-A", "S-A", "O"], ["B-A", "M-A", "E-A", "O", "O"], 2 * 1 / (1 + 2)),
    (["B-A", "M-A", "E-A", "W-A", "O"], ["B-A", "M-A", "E-A", "O", "W-A"], 2 * 1 / (2 + 2)),
    (["I-A", "B-A", "O", "I-A", "O"], ["I-A", "B-A", "O", "O", "O"], 2 * 2 / (2 + 3)),
    (["B-A", "I-A", "O", "B-A", "O"], ["I-A", "I-A", "O", "O", "O"], 2 * 1 / (1 + 2)),  # as conlleval has it
]


@pytest.mark.parametrize(("true", "predicted", "f1"), SCORED)
def test_entities_are_scored_in_their_scheme(true, predicted, f1):
    pytest.importorskip("seqeval")
    score = load("seqeval").compute(predictions=[predicted], references=[true])["seqeval"]
    assert score == pytest.approx(f1)
    names = sorted({*true, *predicted})
    numbers = [np.array([names.index(tag) for tag in row]) for row in (predicted, true)]
    counted = FROM_COUNTS["seqeval"]
    totals = counted.counts(*numbers, Items(np.zeros(5, dtype=int), 1, names)).toarray()
    assert counted.value(totals)[0] == pytest.approx(f1)
    assert len(spans_of(names)(true)) == totals[0, 2]

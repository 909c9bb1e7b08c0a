"""Looking at the first rows loses none of them."""

import datasets
import pytest
from torch.utils.data import Dataset, IterableDataset

from hf_distill import DistillationTrainer, HiddenStateMatching
from hf_distill.training.look_ahead import first_rows
from tests.conftest import collate, tiny_bert, tiny_rows
from tests.training.test_attached_matchings import wide_bert
from tests.training.test_trainer import arguments, assert_same, weights


class Once(IterableDataset):
    """Rows that can be read once, as from a socket."""

    def __init__(self, rows):
        self.rows = iter(rows)

    def __iter__(self):
        yield from self.rows


class ByNumber(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class Itself(Once):
    """Its own iterator."""

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.rows)


class Opened(Once):
    """Of which a second reading yields nothing."""

    def __iter__(self):
        rows, self.rows = self.rows, iter(())
        return rows


class Counted(Once):
    """That knows how many rows it has."""

    def __len__(self):
        return 3


@pytest.mark.parametrize("kind", [Once, Itself, Opened, Counted])
@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 7])
def test_every_row_is_there_once(number, kind):
    rows = [{"input_ids": [each, 7]} for each in range(number)]
    seen, dataset = first_rows(kind(row for row in rows), 2)
    assert seen == rows[:2]
    assert list(dataset) == rows


def test_a_stream_that_begins_anew_is_left_alone():
    rows = tiny_rows(5)
    for dataset in (rows.to_iterable_dataset(), rows, ByNumber(rows), datasets.Dataset.from_dict({"a": [1]})):
        seen, same = first_rows(dataset, 2)
        assert same is dataset
        assert seen == [row for _, row in zip(range(2), dataset, strict=False)]


def test_a_stream_that_is_read_once_trains_as_a_list_does(tmp_path):
    made = []
    for rows in (tiny_rows(16), Once(tiny_rows(16))):
        trainer = DistillationTrainer(
            tiny_bert(num_labels=3),
            arguments(tmp_path, max_steps=2, train_sampling_strategy="sequential"),
            teacher_model=wide_bert(),
            matching=[HiddenStateMatching({-1: -1})],
            train_dataset=rows,
            data_collator=collate,
        )
        trainer.train()
        made.append(weights(trainer))
    assert_same(*made)

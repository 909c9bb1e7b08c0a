"""Checks of the trainer."""

TWO_READINGS = (
    "The rows hold the teacher's own tokens: with two tokenizers the positions of {} do not line up, and its outputs "
    "there are about other words. {}, use one tokenizer for both, or soft_target_weight=0 with a matching of "
    'granularity="word".'
)
WORD_LEVEL = "Add the columns word_starts and teacher_word_starts"
OF_VOCABULARIES = (
    "Add the columns teacher_input_ids, teacher_attention_mask and teacher_labels (the teacher's tokens that are "
    'targets, -100 elsewhere) and set soft_target_loss="universal_logit_distance", which compares two vocabularies'
)

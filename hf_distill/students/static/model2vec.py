"""Write the table of a static student as a folder of model2vec."""

import json
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_distill.students.embeddings import token_embeddings
from hf_distill.students.static.from_teacher import unpooled_token_ids
from hf_distill.students.static.modeling_static import StaticStudentPreTrainedModel, StaticTable


@torch.no_grad()
def save_model2vec(
    student: StaticStudentPreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> None:
    """Write a student's table so that `model2vec.StaticModel.from_pretrained(folder)` reads it.

    `StaticModel.encode(texts)` then gives the `pooler_output` of `StaticStudentModel` for each text that the tokenizer
    does not cut. The head is left out: model2vec has heads of its own.

    Args:
        student: with any head or none, without n-grams; it is not changed.
        tokenizer: the student's, a fast one.
        folder: made if it is missing.
    Raises:
        ValueError: the student has n-grams, its mean counts other tokens than model2vec's, or the tokenizer does not
            fit.
    Source:
        https://github.com/MinishLab/model2vec, version 0.10: `config.json`, `model.safetensors` with `embeddings`, and
        `tokenizer.json`. The weights of the tokens are multiplied into the embeddings, as every version reads them.
    """
    if not isinstance(student, StaticStudentPreTrainedModel):
        raise ValueError(f"Expected a static student, got {type(student).__name__}: it has no table of token vectors.")
    if student.config.ngram_buckets:
        raise ValueError(
            f"This student has {student.config.ngram_buckets} buckets of n-grams, and model2vec reads single tokens: "
            "its vectors would differ. Train a student with ngram_buckets=0."
        )
    if not tokenizer.is_fast:
        raise ValueError(f"Expected a fast tokenizer, whose tokenizer.json is read; got {type(tokenizer).__name__}.")
    left_out, expected = student.config.unpooled_token_ids or [], unpooled_token_ids(tokenizer)
    if left_out != expected:
        raise ValueError(
            f"model2vec leaves the tokens {expected} out of a text's mean (those that this tokenizer adds to every "
            f"text, and the unknown one), and the student {left_out}: their vectors would differ. Train a student with "
            f"unpooled_token_ids={expected}."
        )
    table = cast(StaticTable, token_embeddings(student))
    ids = sorted(tokenizer.get_vocab().values())
    if ids != list(range(len(ids))) or len(ids) > len(table.weight):
        raise ValueError(
            f"Expected a tokenizer with the ids 0 to at most {len(table.weight) - 1}, each once, got {len(ids)} tokens "
            f"with ids up to {ids[-1]}. Give the tokenizer that the student was trained with."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = cast(Tensor, table.token_weights)
    rows = (table.weight.float() * weights.float().unsqueeze(1)).cpu()
    save_file({"embeddings": rows[: len(ids)].contiguous()}, folder / "model.safetensors")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "hidden_dim": rows.shape[1],
        "normalize": False,
        "max_length": None,  # texts are not cut
        "embedding_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2))

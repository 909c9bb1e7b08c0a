"""Teachers: models that return logits, and functions, models and servers that return texts."""

from hf_distill.teachers.ask import ask, teacher_labels
from hf_distill.teachers.class_targets import ClassTargets
from hf_distill.teachers.generating import GeneratingTeacher
from hf_distill.teachers.prompted import PromptedTeacher
from hf_distill.teachers.prompts import ClassPrompt
from hf_distill.teachers.served import ServedTeacher
from hf_distill.teachers.span_targets import Sentence, SpanTargets
from hf_distill.teachers.spans import SpanTeacher
from hf_distill.teachers.text import TextTeacher
from hf_distill.teachers.without_adapter import WithoutAdapter

__all__ = [
    "ClassPrompt",
    "ClassTargets",
    "GeneratingTeacher",
    "PromptedTeacher",
    "Sentence",
    "ServedTeacher",
    "SpanTargets",
    "SpanTeacher",
    "TextTeacher",
    "WithoutAdapter",
    "ask",
    "teacher_labels",
]

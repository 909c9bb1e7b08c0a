"""Teachers: models that return logits, and functions, models and servers that return texts."""

from hf_distill.teachers.ask import ask, teacher_labels
from hf_distill.teachers.generating import GeneratingTeacher
from hf_distill.teachers.served import ServedTeacher
from hf_distill.teachers.text import TextTeacher
from hf_distill.teachers.without_adapter import WithoutAdapter

__all__ = ["GeneratingTeacher", "ServedTeacher", "TextTeacher", "WithoutAdapter", "ask", "teacher_labels"]

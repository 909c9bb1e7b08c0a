"""`hf_distill.redaction` by its earlier name."""

from hf_distill.redaction import redacted, shareable, shareable_config, without_folders, without_secrets  # noqa: F401

"""The name that the cards of published caches import; it lives in `hf_distill.soft_targets.provenance`."""

from hf_distill.soft_targets.provenance import row_hashes as row_hashes

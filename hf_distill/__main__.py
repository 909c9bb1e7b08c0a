"""`python -m hf_distill` is `hf-distill`."""

import sys

from hf_distill.cli import main

sys.exit(main())

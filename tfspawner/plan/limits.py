"""How much a job may ask for."""

from __future__ import annotations

MAX_ENV_BYTES = 128 * 1024 - 1  # Linux's bound for one NAME=VALUE (MAX_ARG_STRLEN)
MOST_NAME = 253  # of a variable: a Secret's key
MAX_SECRET_BYTES = 1024 * 1024
# TF_CONFIG is one variable, and each address takes up to 24 of its bytes. Jobs of 1,000 workers were tried.
MAX_REPLICAS = 5400
MAX_INT32 = 2**31 - 1  # Kubernetes's bound for ttlSecondsAfterFinished and backoffLimitPerIndex
MAX_SECONDS = 10 * 365 * 86400  # ten years; Python's own waits end at 292
MAX_GPUS = 1000  # of one replica; a node has 16, or 56 parts of some
MOST_TEXT_BYTES = 128 * 1024 - 1  # of one argument or name (Linux's MAX_ARG_STRLEN)
MOST_LIST_BYTES = 512 * 1024  # of a list or mapping in all: it goes into a ConfigMap of 1 MiB, and onto a command line
MOST_VARIABLES = 2000  # each is looked for in the code and in the output, in all its spellings
MOST_ITEMS, MOST_LABELS = 100_000, 1000  # of a list and of a mapping that a record takes, see record/reading.py
LONGEST_LINE = 4096  # characters of a text that stands on one line

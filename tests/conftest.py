"""One thread for every test: the models are too small to gain from more, and machines are shared.

With several threads a busy neighbour makes each parallel region wait for its slowest part.
"""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

"""Write docs/licences.md: ``python docs/_build/licences.py``, where every extra is installed.

Licences are those that the installed packages state in their metadata. A package that states none in
a known form stops the script, and so does one without a purpose below.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).resolve().parents[1] / "licences.md"

PURPOSES = {
    "accelerate": "training on several processes",
    "datasets": "training data for TRL",
    "fsspec": "runs in a directory that machines share",
    "gymnasium": "the planner's environments",
    "hypothesis": "tests",
    "jinja2": "chat templates of models",
    "matplotlib": "pictures of environments",
    "mkdocs-material": "the documentation site",
    "mkdocstrings": "the reference of the documentation site",
    "mypy": "types",
    "numba": "a compiled surrogate tier",
    "numpy": "everything numeric",
    "openai": "models behind an OpenAI-compatible server",
    "packaging": "versions and extras in `mfenv doctor`",
    "peft": "LoRA adapters",
    "pettingzoo": "the population environment",
    "pyarrow": "Parquet files",
    "pytest": "tests",
    "pytest-timeout": "tests",
    "pytest-xdist": "tests",
    "pyyaml": "hyper-parameters of planners",
    "ray": "many machines",
    "rich": "tables and progress in the terminal",
    "rl-zoo3": "tests: its training runs on the environments",
    "ruff": "lint and format",
    "safetensors": "weights",
    "sb3-contrib": "MaskablePPO and RecurrentPPO",
    "scikit-learn": "the annotator's training, personas",
    "scipy": "tests: independent statistics",
    "setuptools": "tests: what a wheel would hold",
    "stable-baselines3": "PPO",
    "tensorboard": "curves of trainings",
    "tokenizers": "tokenisers of models",
    "torch": "language models",
    "transformers": "language models; a server for the tests",
    "trl": "IB-Tune, SFT, GRPO; with its extra `vllm`, fast candidates on GPUs",
}
"""Every direct dependency, and what a user has of it."""

KNOWN = frozenset(
    "0BSD Apache-2.0 BSD-2-Clause BSD-3-Clause BSL-1.0 CC0-1.0 ISC MIT MPL-2.0 PSF-2.0 Zlib "
    "LLVM-exception BSD matplotlib".split()
)
"""Licences that have been looked at (SPDX, or the family where a package does not say which)."""

_ELSEWHERE = {"mkdocs-material": "MIT", "mkdocstrings": "ISC"}
"""As stated in their metadata; for where the documentation's extra is not installed."""

_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "Python Software Foundation License": "matplotlib (based on PSF-2.0)",
}
_FIELDS = {"Apache 2.0": "Apache-2.0", "Apache 2.0 License": "Apache-2.0", "MIT": "MIT"}


def direct() -> dict[str, list[str]]:
    """Direct dependency → the extras that bring it (``core`` without one), sorted by name."""
    found: dict[str, list[str]] = {}
    names = metadata.metadata("mfenv").get_all("Provides-Extra") or []
    for requirement in map(Requirement, metadata.requires("mfenv") or []):
        name, marker = canonicalize_name(requirement.name), requirement.marker
        if name == "mfenv":
            continue
        always = marker is None or marker.evaluate({"extra": ""})
        by = ["core"] if always else [n for n in names if marker and marker.evaluate({"extra": n})]
        found[name] = sorted({*found.get(name, []), *by})
    return dict(sorted(found.items()))


def licence(name: str) -> str:
    """What a package's metadata state. Raises ``ValueError`` where that is nothing known."""
    try:
        stated = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        if name in _ELSEWHERE:
            return _ELSEWHERE[name]
        raise ValueError(f"{name} is not installed, so its licence is not known") from None
    text = stated.get("License-Expression", "")
    for classifier in stated.get_all("Classifier") or []:
        text = text or _CLASSIFIERS.get(classifier.rpartition(" :: ")[2], "")
    text = text or _FIELDS.get(stated.get("License", ""), "")
    unknown = [word for word in re.findall(r"[\w.-]+", text) if word not in KNOWN | _GLUE]
    if not text or unknown:
        raise ValueError(f"{name}: the licence {text or 'that it states'!r} is not known here")
    return text


_GLUE = frozenset(("AND", "OR", "WITH", "based", "on"))


def page() -> str:
    """The page."""
    rows = [
        f"| {name} | {', '.join(by)} | {licence(name)} | {PURPOSES[name]} |"
        for name, by in direct().items()
    ]
    return "\n".join(
        [
            "# Licences",
            "",
            "`mfenv` is under the MIT licence (`LICENSE`). Nothing of another project is copied into "
            "it; what it needs is installed beside it.",
            "",
            "## Direct dependencies",
            "",
            "As each package's own metadata state it. `BSD` stands where a package does not say which "
            "of the BSD licences it has. What these packages need in turn has licences of its own; "
            "`pip-licenses` lists them for an environment. This table is written by "
            "`docs/_build/licences.py`.",
            "",
            "| package | extra | licence | what for |",
            "|---|---|---|---|",
            *rows,
            "",
            _REST,
        ]
    )


_REST = """\
`torch` for CUDA brings NVIDIA's libraries, which are proprietary and free to use under NVIDIA's
terms; the CPU build does not. Of these packages only `hypothesis` (MPL-2.0, for the tests) asks
that changes to its own files be published.

## Weights that are shipped

| weights | trained on | terms |
|---|---|---|
| `embedded-en`, `embedded-en-xs`, `ngram-en`, opinions, `planner-society`, the surrogates of the society and of `embedded-en` | the synthetic society | MIT |
| `weibo-s`, its tuned mean-field model, its surrogate, `ngram-weibo`, the Chinese half of the annotator | de-identified public Weibo posts | research use |
| the English half of the annotator | RumourEval 2019 and PHEME posts | research use |

## Data

**No real data is shipped**: no post, profile or name is in the repository, the sdist or the wheel.
Entries of the leaderboard on real tracks hold labels, counts and hashes. The synthetic society is
generated by the code. The tracks are played on your copy of

| data | from | licence as stated upstream |
|---|---|---|
| `weibo` | CED_Dataset (Song et al. 2018; most events are those of rumdect, Ma et al. 2016) and the Covid-19 Weibo rumour dataset | none is stated; research use, the authors of CED ask for citation; texts belong to their writers |
| `pheme` | PHEME rumour scheme (figshare 2068650) and PHEME rumours and non-rumours (figshare 4010619), Zubiaga et al. | annotations CC BY; "Twitter retains the ownership and rights of the content of the tweets" |
| `rumoureval` | RumourEval 2019, SemEval task 7 (figshare 8845580), Gorrell et al. | CC BY 4.0; for its PHEME threads as for `pheme` |
| annotations in eight dimensions | labels by a large language model on reactions of `weibo` and `rumoureval` | as the source data; research use |

None of these may be redistributed with this project. Publish aggregate results only, and cite the
collections ([Tracks](tracks/index.md) says how each is used; [Limits and ethics](limits.md)).
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)

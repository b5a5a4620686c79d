"""Arguments that several commands have, with their help."""

from pathlib import Path
from typing import Annotated

import tyro

from tinylm.corpus.read import ENDINGS

Corpus = Annotated[
    list[str],
    tyro.conf.arg(help=f"files or folders of {ENDINGS}; or hub:NAME[@CONFIG][:SPLIT]."),
]
HeldOut = Annotated[
    tuple[Path, ...],
    tyro.conf.arg(help=f"held-out files or folders for bits per byte: {ENDINGS}."),
]

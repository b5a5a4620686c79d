"""Arguments that several commands have, with their help."""

from typing import Annotated

import tyro

from tinylm.corpus.formats import ENDINGS

Corpus = Annotated[
    list[str],
    tyro.conf.arg(help=f"files or folders of {ENDINGS}; or hub:NAME[@CONFIG][:SPLIT]."),
]

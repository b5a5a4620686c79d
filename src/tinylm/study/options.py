"""What a person may choose about the execution of a study."""

from dataclasses import dataclass

from tinylm.study.engines import Engine
from tinylm.study.spec import Scale


@dataclass(frozen=True)
class StudyOptions:
    """Settings of ``tinylm study run``."""

    # cpu (minutes a run on two cores), gpu (minutes a run on one GPU) or full (the paper's 1B)
    scale: Scale = "cpu"
    # recipe keys for all runs, e.g. --set train.steps=100 'corpus.paths=["my/texts"]'
    set: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()  # instead of the study's own, usually 0 1 2; fewer say less
    # of the noise floor, instead of the study's own, usually 1000 1001 1002
    noise_seeds: tuple[int, ...] = ()
    # processes of this machine, or a Ray cluster (RAY_ADDRESS; needs the extra tinylm[cluster])
    engine: Engine = "local"
    workers: int = 1  # runs at a time; each gets an equal share of the cores
    max_hours: float = 0  # start no run that would end later than this; 0: no limit

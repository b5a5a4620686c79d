"""The training loop: rounds of steps, each step one batch, able to stop and go on at any moment."""

from pathlib import Path
from typing import Any

from tinylm.corpus.store import TokenStore, tokenizer_hash
from tinylm.errors import InputError
from tinylm.terminal import progress_bar
from tinylm.train.config import TrainConfig
from tinylm.train.evaluation import evaluate
from tinylm.train.inputs import check_valid_store
from tinylm.train.output import export_step, finish
from tinylm.train.resampling import begin_round
from tinylm.train.resume import resume, save_checkpoint
from tinylm.train.run import Run
from tinylm.train.step import train_step
from tinylm.train.stopping import StopSignal

# tokens; checksums of larger stores take more than some seconds: call store.verify() by hand
VERIFIED = 1_000_000_000


def train(
    model: Any,
    store: TokenStore,
    config: TrainConfig,
    out: str | Path,
    teacher: Any = None,
    valid_store: TokenStore | None = None,
    tokenizer: Any = None,
    order_from: Path | None = None,
) -> dict[str, Any]:
    """Train ``model`` (a `transformers` causal model, changed in place) on ``store``; returns what
    result.json holds.

    Writes to ``out``: ``model/`` (a plain Hugging Face directory), ``metrics.jsonl``, ``rounds/``
    and ``checkpoints/``. Called again with the same arguments (the model as it was at first) after
    a stop of any kind it goes on from the last checkpoint, bitwise as if it had never stopped.
    ``teacher`` shares the student's vocabulary; it is used when ``config.distillation`` says so,
    and its stored logits are kept beside the store, where other runs find them. ``order_from`` is
    the ``out`` of a finished run of the same settings: later rounds train on the data it chose, so
    that a control sees the same batches.
    """
    if tokenizer is not None and tokenizer_hash(tokenizer) != store.tokenizer_hash:
        raise InputError(
            f"{store.path} was packed with another tokenizer than the model's: pack the corpus"
            " again"
        )
    if store.num_tokens < VERIFIED:
        store.verify()
    run = Run(model, store, config.validate(), Path(out), teacher, order_from)
    config = run.config
    if valid_store is not None:
        check_valid_store(valid_store, store, config)
    resume(run)
    with StopSignal() as stop, progress_bar("training", run.plan.total_steps, "steps") as bar:
        bar.advance(run.step)
        while run.step < run.plan.total_steps:
            round_number, inside = run.plan.locate(run.step)
            if round_number > 0 and inside == 0:
                begin_round(run, round_number)
            train_step(run, round_number, inside)
            bar.advance(1, run.note)
            if valid_store is not None and _due(config.evaluate_every, run.step):
                evaluate(run, valid_store)
            # never assign 0: a signal may have come in between
            if asked := run.world.any(stop.requested):
                stop.requested = asked
            if stop.requested or _due(config.checkpoint_every, run.step):
                save_checkpoint(run)
            if _due(config.export_every, run.step):
                export_step(run, tokenizer)
            if stop.requested:
                run.checkpoints.wait()
                stop.exit(run.out)
    if valid_store is not None and run.evaluated_at != run.step:
        evaluate(run, valid_store)
    return finish(run, tokenizer)


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0

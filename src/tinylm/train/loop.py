"""The training loop: rounds of steps, each step one batch, able to stop and go on at any moment."""

from pathlib import Path
from typing import Any

from tinylm.corpus.store import TokenStore, tokenizer_hash
from tinylm.errors import InputError
from tinylm.terminal import progress_bar
from tinylm.train import watch
from tinylm.train.config import TrainConfig
from tinylm.train.evaluation import evaluate
from tinylm.train.inputs import check_valid_store
from tinylm.train.learning_rate import settle_rate
from tinylm.train.length import settle_hours
from tinylm.train.output import export_step, finish
from tinylm.train.resampling import begin_round
from tinylm.train.resume import resume, save_checkpoint
from tinylm.train.rounds import settle_rounds
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
    score_valid: bool = True,
) -> dict[str, Any]:
    """Train ``model`` (a `transformers` causal model, changed in place) on ``store``; returns what
    result.json holds.

    Writes to ``out``: ``model/`` (a plain Hugging Face directory), ``metrics.jsonl``, ``rounds/``
    and ``checkpoints/``. Called again with the same arguments (the model as it was at first) after
    a stop of any kind it goes on from the last checkpoint, bitwise as if it had never stopped.
    ``teacher`` shares the student's vocabulary; it is used when ``config.distillation`` says so,
    and its stored logits are kept beside the store, where other runs find them. ``order_from`` is
    the ``out`` of a finished run of the same settings: later rounds train on the data it chose, so
    that a control sees the same batches. ``valid_store`` is held-out text: a little of it guards
    the run (:mod:`~tinylm.train.watch`), and with ``score_valid`` its loss is in the result.
    """
    if tokenizer is not None and tokenizer_hash(tokenizer) != store.tokenizer_hash:
        raise InputError(
            f"{store.path} was packed with another tokenizer than the model's: pack the corpus"
            " again"
        )
    if store.num_tokens < VERIFIED:
        store.verify()
    config = config.validate().settle_length(model.num_parameters())
    config = settle_hours(model, store, config, Path(out), teacher)
    config = settle_rounds(config, store.num_tokens)
    if valid_store is not None:
        check_valid_store(valid_store, store, config)
    run = Run(model, store, config, Path(out), teacher, order_from, valid_store)
    settle_rate(run)
    config = run.config
    resume(run)
    with StopSignal() as stop, progress_bar("training", run.plan.total_steps, "steps") as bar:
        bar.advance(run.step)
        while run.step < run.plan.total_steps:
            if watch.is_due(run):
                watch.look(run)
            if watch.must_stop(run):
                break
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
    if watch.is_due(run):
        watch.look(run)
    published = watch.publish_best(run)
    measured = run.evaluated_at == published.get("published_step", run.step)
    if valid_store is not None and score_valid and not measured:
        evaluate(run, valid_store)
    return finish(run, tokenizer, published)


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0

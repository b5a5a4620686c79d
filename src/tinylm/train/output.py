"""What a run leaves behind: `transformers` directories and result.json."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm.artifact import atomic_directory, read_json, write_json
from tinylm.errors import InputError
from tinylm.models.save import save_model
from tinylm.train.evaluation import pool_losses
from tinylm.train.parallel import full_tensor
from tinylm.train.resampling import measure_forgetting, rounds_drawn

if TYPE_CHECKING:
    from tinylm.train.run import Run


def finish(run: "Run", tokenizer: Any, published: dict[str, Any]) -> dict[str, Any]:
    """Write the trained model as a Hugging Face directory and ``result.json``; ``published`` are
    numbers of what is written, see :func:`~tinylm.train.watch.publish_best`."""
    run.checkpoints.wait()
    forgetting = {}
    if run.config.forgetting:
        assert run.config.rounds != "auto"
        losses = pool_losses(run, run.config.rounds)
        forgetting = measure_forgetting(run, run.config.rounds - 1, losses)
    write_model(run, run.out / "model", tokenizer)
    if run.world.size == 1:
        run.masters.restore_model(run.final_dtype)
    run.student.release()
    del run.prefetch  # it holds this run, which would keep the optimiser's memory
    tokens = run.step * run.config.tokens_per_batch
    result = {
        "steps": run.step,
        "tokens_trained": tokens,
        "seconds": run.seconds,
        "tokens_per_second": tokens / max(run.seconds, 1e-9),
        "skipped_steps": run.guard.skipped,
        "base_lr": run.config.base_lr,
        **run.measured_rate,
        **published,
        **run.valid,
        **forgetting,
        **({"rounds_drawn": drawn} if (drawn := rounds_drawn(run)) else {}),
    }
    if run.world.is_main:
        write_json(run.out / "result.json", result)
        run.metrics.close()
    run.world.wait()
    return result


def export_step(run: "Run", tokenizer: Any) -> None:
    """``out/models/step-N``. A disk that is full costs this directory, not the run."""
    folder = run.out / "models" / f"step-{run.step:08d}"
    try:
        write_model(run, folder, tokenizer)
    except (InputError, OSError) as error:
        run.log(f"[yellow]{folder} could not be written ({error}); training goes on without it[/]")


def write_model(run: "Run", folder: Path, tokenizer: Any) -> None:
    """A Hugging Face directory of the model as it is now: config, weights in the format they came
    in, tokenizer."""
    model, masters, dtype = run.student.model, run.masters, run.final_dtype
    weights = {
        name: full_tensor(weight.detach()).to("cpu", dtype)
        for name, weight in zip(masters.names, masters.weights, strict=True)
    }
    every = model.named_parameters(remove_duplicate=False)
    trained = {name for name, weight in every if weight.requires_grad}
    # frozen parameters and buffers that are saved
    for name, value in model.state_dict().items():
        if name in masters.frozen:
            weights[name] = full_tensor(masters.frozen[name]).to("cpu", dtype)
        elif name not in trained:
            weights[name] = full_tensor(value).cpu()
    if run.world.is_main:
        with atomic_directory(folder, replace=True) as scratch:
            save_model(model, scratch, state_dict=weights)
            # it says what the model computes in, not what is written
            config = read_json(scratch / "config.json") | {"dtype": str(dtype)[len("torch.") :]}
            write_json(scratch / "config.json", config)
            if tokenizer is not None:
                tokenizer.save_pretrained(scratch)

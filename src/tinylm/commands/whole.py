"""`tinylm run`, `study run`, `study report`: many stages at once."""

import shlex
from pathlib import Path
from typing import Annotated

import tyro

from tinylm.commands.arguments import Corpus
from tinylm.machine import is_first_process
from tinylm.study.options import StudyOptions
from tinylm.study.spec import packaged_studies
from tinylm.terminal import console


def init(
    teacher: str,
    corpus: Corpus,
    hours: float,
    budget: float = 0.0,
    out: Path = Path("mine.toml"),
) -> None:
    """Write a first recipe for your teacher, your text and your hours on this machine.

    The machine's speed is measured (a second), the length of training follows from the hours, the
    vocabulary from the size of the student. Change what you like in the file, then `tinylm run` it.

    Args:
        teacher: directory, .gguf file, hub id or smollm2-135m.
        hours: of training on this machine, the trials of the learning rate and the control
            included.
        budget: parameters of the student, e.g. 60e6; 0: a quarter of the teacher's.
        out: the file to write.
    """
    from tinylm.pipeline.propose import propose, write_recipe

    recipe, words = propose(teacher, corpus, hours, budget, name=out.stem)
    write_recipe(recipe, out, words, hours)
    for line in words:
        print(line)
    file = shlex.quote(str(out))
    print(f"recipe: {out}\nits cost: tinylm run {file} --dry-run\nstart it: tinylm run {file}")


def run(
    recipe: Annotated[str, tyro.conf.Positional] = "demo",
    out: Path | None = None,
    set: tuple[str, ...] = (),
    threads: int = 0,
    processes: int = 1,
    dry_run: bool = False,
    peak_tflops: float = 989,
    mfu: float = 0.4,
) -> None:
    """The whole pipeline: teacher + corpus -> tiny model, report, results. Run again to resume.

    Stages: teacher, corpus, compact tokenizer, architecture, inheritance, multiple-round training,
    a control from random weights, scoring on held-out text, report. Each is kept in OUT/work: a
    second run does only what is missing.

    Many devices: --processes N; on several machines, with a folder that they share, `torchrun
    --nnodes M --nproc-per-node N ... -m tinylm run ...`.

    Args:
        recipe: a .toml file or the name of a packaged recipe; by default the demo (20 minutes
            on 2 cores with AVX512-BF16).
        out: folder of everything; default runs/NAME, NAME from the recipe.
        set: recipe keys changed for this run, e.g. --set train.steps=720 name=longer
            'corpus.paths=["my/texts"]'.
        threads: CPU threads; 0: as many as there are cores.
        processes: of this machine that train and score together: one a GPU. The dry run's bill is
            for so many devices.
        dry_run: print the student, its memory and the cost of every stage, and stop.
        peak_tflops: of one device, for the bill of the dry run; 989: an H100 or H200 in dense bf16.
        mfu: share of that peak that training is assumed to reach.
    """
    from tinylm.errors import InputError
    from tinylm.pipeline import run as pipeline
    from tinylm.pipeline.forecast import first_words, is_large, machine_speed, print_dry_run
    from tinylm.pipeline.launch import idle_devices, spawn
    from tinylm.pipeline.recipe import read_recipe
    from tinylm.pipeline.settings import as_words, parse_settings

    if processes < 1:
        raise InputError(f"--processes {processes} must be 1 or more")
    if threads and processes > 1:
        raise InputError(
            "--threads is for one process: with --processes each has its share of the cores"
        )
    if processes > 1 and not dry_run:
        pipeline.check(read_recipe(recipe, parse_settings(set)))  # said once, not by each
        words = ["run", recipe, *(["--out", str(out)] if out else [])]
        words += ["--set", *set] if set else []
        words += ["--peak-tflops", str(peak_tflops), "--mfu", str(mfu)]
        raise SystemExit(spawn(processes, words))
    if threads < 0:
        raise InputError(f"--threads {threads} must be a number of threads, or 0 for all cores")
    if threads:
        pipeline.use_threads(threads)
    changes = parse_settings(set)
    chosen = read_recipe(recipe, changes)
    talks = is_first_process()
    if talks and (dry_run or is_large(chosen)):
        print_dry_run(chosen, peak_tflops, mfu, processes)
    for line in first_words(chosen, machine_speed()) if talks else ():
        console.print(line, highlight=False)
    if dry_run:
        return
    out = out or Path("runs") / chosen.name
    asked = shlex.join([recipe, *as_words(changes)])
    if idle := idle_devices():
        console.print(
            f"[yellow]{idle} more GPUs are idle here: --processes {idle + 1} uses them[/]",
            highlight=False,
        )
    results = pipeline.run(chosen, out, recipe_path=asked)
    if results:
        pipeline.print_results(results, out)


def study_run(
    study: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(help=f"a .toml file, or a packaged study: {', '.join(packaged_studies())}."),
    ],
    options: Annotated[StudyOptions, tyro.conf.arg(name="")] = StudyOptions(),  # noqa: B008
    out: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Run a study: recipe variations over seeds, with statistics. Run again to go on.

    Finished runs are never done again, failed ones are tried again, stages that runs share are
    computed once.

    Args:
        out: folder of everything; default runs/studies/STUDY-SCALE.
        dry_run: check the study, print what it would cost, and stop.
    """
    from tinylm.pipeline.settings import parse_settings
    from tinylm.study import runner, spec

    changes = parse_settings(options.set)
    chosen = spec.read_study(study, options.scale, changes, options.seeds, options.noise_seeds)
    out = out or Path("runs") / "studies" / f"{chosen.name}-{options.scale}"
    if dry_run:
        runner.print_plan(chosen, out, options.workers)
        return
    results = runner.run_study(
        chosen,
        out,
        engine=options.engine,
        workers=options.workers,
        max_hours=options.max_hours,
    )
    runner.print_verdicts(results, out)


def study_report(folder: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write the report of a study anew, finished or not: results.json, report.html, report.md.

    Args:
        folder: the --out of `tinylm study run`.
    """
    from tinylm.study import report, runner, summary

    results = summary.summarise(folder)
    report.write_report(results, folder)
    runner.print_verdicts(results, folder)

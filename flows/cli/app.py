"""The `colinear` command as a person sees it: its commands, options, help and examples.

What a command does is in the file of its name, imported when it runs: help and completion load nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from typer.models import ArgumentInfo, OptionInfo

from flows.cli import completion


def _examples(*pairs: tuple[str, str], note: str = "") -> str:
    """The end of a command's help: command lines, each with what it is for under it, then ``note``."""
    lines = ["[bold]Examples[/bold]", *(f"{command}\n    {what}".replace("[", r"\[") for command, what in pairs)]
    return "\n".join(lines) + (f"\n\n{note}".replace("[", r"\[") if note else "")


TRAIN, TRAINED, MACHINE = "Train and compare", "Compare what is trained already", "Servers and this machine"
PLAN = "Plan without running"

app = typer.Typer(
    help="Do these training methods change the model in the same way, and does it matter?",
    epilog=_examples(
        ("colinear study smoke", "train six methods on one set of rollouts and compare them, in a minute"),
        ("colinear compare sft/adapter dpo/adapter", "compare adapters that exist already"),
        ("colinear COMMAND --help", "a command's options, with examples"),
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

# --- options that several commands have ------------------------------------------------------------------------------

Rollouts = Annotated[
    str | None, typer.Option(metavar="FILE", help="Your own rollouts: a file or a folder (docs/own-data.md).")
]
Out = Annotated[str | None, typer.Option(metavar="DIR", help="Folder of the report. Default: a new one under runs/.")]


def _repeated(
    *names: str, metavar: str, help: str, autocompletion: Callable[[], completion.Offered] | None = None
) -> OptionInfo:
    """An option that may be given several times."""
    return typer.Option(
        *names, metavar=metavar, default_factory=list, show_default=False, autocompletion=autocompletion, help=help
    )


def _set(autocompletion: Callable[[], completion.Offered], also: str = "") -> OptionInfo:
    """The option --set, with the settings that it takes."""
    what = f"Change one setting, such as train.lr=1e-4{also}. May be repeated."
    return _repeated("--set", metavar="SECTION.KEY=VALUE", help=what, autocompletion=autocompletion)


def _several(metavar: str, help: str) -> ArgumentInfo:
    """An argument that takes several words."""
    return typer.Argument(metavar=metavar, default_factory=list, show_default=False, help=help)


# --- train and compare -----------------------------------------------------------------------------------------------


@app.command(
    rich_help_panel=TRAIN,
    epilog=_examples(
        ("colinear study", "the default study, in a small world that it makes itself"),
        ("colinear study smoke", "the same in a minute"),
        ("colinear study --set methods=sft,rft,dpo --set matched=dpo", "DPO at its own rate and at that of the others"),
        ("colinear study --set seed=1 --set data_seed=7", "another LoRA initialisation, another order of the data"),
        ("colinear study my_study.toml --out runs/mine", "settings from a file"),
        ("colinear study --rollouts rollouts.jsonl --set model.base=DIR_OR_HUB_ID", "your own rollouts and model"),
        (
            "colinear study --set model.base=DIR --set rollouts.problems=deepscaler \\\n    --set rollouts.teacher=DIR",
            "your own model, on rollouts sampled from a teacher",
        ),
        ("colinear study paper --dry-run --on 8xH100", "what the paper's protocol takes on eight GPUs"),
    ),
)
def study(
    preset: Annotated[
        str | None,
        typer.Argument(
            metavar="PRESET|FILE.toml", autocompletion=completion.studies,
            help="A named study (see `colinear presets`) or a file of settings. Default: tiny, or own where a model "
            "or rollouts of your own are given.",
        ),
    ] = None,
    *,
    assignments: Annotated[list[str], _set(completion.settings)],
    rollouts: Rollouts = None,
    out: Out = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", rich_help_panel=PLAN, help="Print stages, time, memory and disk; run nothing.")
    ] = False,
    on: Annotated[
        str | None, typer.Option(metavar="GPUS", rich_help_panel=PLAN, help="Plan for these GPUs, such as 8xH100.")
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(metavar="N", rich_help_panel=PLAN, help="A device's peak in matrix products, where you know it."),
    ] = None,
    tokens: Annotated[
        float | None,
        typer.Option(metavar="N", rich_help_panel=PLAN, help="Mean tokens of a completion, where you know them."),
    ] = None,
) -> int:  # fmt: skip
    """Train several methods on the same rollouts and compare what each did to the model."""
    from flows.cli.study import run

    return run(preset, assignments, rollouts, out, dry_run=dry_run, on=on, tflops=tflops, tokens=tokens)


@app.command(
    rich_help_panel=TRAIN,
    epilog=_examples(
        ("colinear sweep", "tiny-sweep: 2 seeds x 3 learning rates x 6 methods"),
        ("colinear sweep tiny-sweep --seeds 0,1,2", "one seed more: only its cells are computed"),
        (
            "colinear sweep smoke --seeds 0,1 --lrs 1e-4,1e-3 --methods sft,dpo \\\n    --set paths.n=0",
            "two methods, and no paths between solutions",
        ),
        (
            "colinear sweep tiny --seeds 0,1 --grid dpo.beta=0.05,0.1 \\\n"
            '    --grid "lora.targets=[q_proj],[q_proj,v_proj]"',
            "other settings as axes of the grid",
        ),
        ("colinear sweep my_sweep.toml --out runs/mine", "a study's sections, and [sweep] seeds, lrs, grid, cells"),
        note="The same command goes on where a sweep stopped, and runs failed cells again.",
    ),
)
def sweep(
    preset: Annotated[
        str | None,
        typer.Argument(
            metavar="PRESET|FILE.toml", autocompletion=completion.sweeps,
            help="A named sweep or study (see `colinear presets`) or a file of settings. Default: tiny-sweep.",
        ),
    ] = None,
    *,
    seeds: Annotated[str | None, typer.Option(metavar="S,S,...", help="LoRA initialisations.")] = None,
    lrs: Annotated[str | None, typer.Option(metavar="LR,LR,...", help="Peak learning rates (train.lr).")] = None,
    methods: Annotated[str | None, typer.Option(metavar="M,M,...", help="Methods that every cell trains.")] = None,
    grid: Annotated[
        list[str],
        _repeated(
            metavar="SECTION.KEY=V,V,...", help="Another axis of the grid. May be repeated.",
            autocompletion=completion.settings,
        ),
    ],
    assignments: Annotated[
        list[str], _set(completion.sweep_settings, " in all cells; also sweep.path_problems and sweep.most_cells")
    ],
    rollouts: Rollouts = None,
    out: Out = None,
) -> int:  # fmt: skip
    """Run one study for each combination of seeds, learning rates and settings, all on the same rollouts."""
    from flows.cli.sweep import run

    return run(preset, assignments, rollouts, out, seeds=seeds, lrs=lrs, methods=methods, grid=grid)


@app.command(
    rich_help_panel=TRAIN,
    epilog=_examples(
        ("colinear presets", "every name, with a line on what it is"),
        ("colinear study smoke", "run the study of that name"),
        ("colinear sweep tiny-sweep", "run the sweep of that name"),
    ),
)
def presets() -> int:
    """List the named studies and sweeps."""
    from flows.cli.presets import run

    return run()


# --- compare what is trained already ----------------------------------------------------------------------------------


@app.command(
    rich_help_panel=TRAINED,
    epilog=_examples(
        ("colinear compare sft/adapter rft/adapter dpo/adapter", "three adapters; the first is the reference"),
        ("colinear compare ours=out/final theirs=owner/name --reference ours", "with names, one from the Hub"),
        (
            "colinear compare sft sft-again dpo --replicate sft=sft-again",
            "with a noise floor: one method, trained twice",
        ),
        ("colinear compare sft tuned-model --base owner/base", "a whole model, and what compares to the base"),
        (
            "colinear compare sft dpo --base owner/base --texts held-out.jsonl",
            "the cosine weighted by the base's activations",
        ),
        ("colinear compare 0f3c...e1 runs:/77aa...02/adapter", "adapters of MLflow runs"),
        ("colinear compare a b --merge --base owner/base --texts dev.jsonl", "before a merge: what the sum would do"),
        ("colinear compare a b --plain --out report", "without Prefect and MLflow, for scripts"),
        ("colinear compare outputs/run", "one training's checkpoints, as a path"),
        note="An ADAPTER is a PEFT directory, a model directory (a full fine-tune; needs --base), a Hub id "
        "(owner/name[/folder][@revision]), an MLflow run id, or a URI (runs:/ID[/path], models:/name/version, "
        "mlflow-artifacts:/...). NAME=ADAPTER gives it a name; otherwise it gets the end of its path.",
    ),
)
def compare(
    adapters: Annotated[list[str], _several("ADAPTER", "Two or more (see below).")],
    *,
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model that they were trained from: a directory, Hub id or GGUF file."),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="With --base: texts (JSONL, parquet) for the activation-weighted cosine; with --merge for its losses.",
        ),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="NAME", help="The adapter to hold the others against. Default: the first.")
    ] = None,
    replicate: Annotated[
        list[str], _repeated("--replicate", "--twin", metavar="A=B", help="B is A's method trained again.")
    ],
    k: Annotated[str, typer.Option("--k", metavar="K,K,...", help="Dimensions of the subspaces.")] = "1,5,10",
    out: Out = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Use neither Prefect nor MLflow: a fast start, and no record.")
    ] = False,
    merge: Annotated[
        bool,
        typer.Option("--merge", help="Also say what merging the reference with each other adapter would do to both."),
    ] = False,
) -> int:
    """Compare the weight updates of adapters or models that exist already, every pair of them."""
    from flows.cli.compare import run

    return run(adapters, base, reference, replicate, k, out, plain=plain, texts=texts, merge=merge)


@app.command(
    rich_help_panel=TRAINED,
    epilog=_examples(
        ("colinear report runs/tiny-a runs/tiny-b", "two seeds on one page"),
        ("colinear report runs/sweep-*/ --out report", "every cell of a sweep"),
        ("colinear report runs:/0f3c...e1 runs/tiny-b", "one of them by its MLflow run"),
        note="A RUN is a finished study: its folder, its report.html, or its MLflow run (runs:/ID or the bare id).",
    ),
)
def report(
    studies: Annotated[list[str], _several("RUN", "Two or more finished studies (see below).")],
    *,
    out: Out = None,
    no_across: Annotated[
        bool,
        typer.Option(
            "--no-across",
            help="Do not compare adapters of different studies. Default: compare those that share a base and are in "
            "this store.",
        ),
    ] = False,
) -> int:
    """Join several finished studies (seeds, learning rates, a sweep) into one page."""
    from flows.cli.report import run

    return run(studies, out, across_studies=not no_across)


@app.command(
    rich_help_panel=TRAINED,
    epilog=_examples(
        ("colinear accuracy a/samples_gsm8k_*.jsonl b/samples_gsm8k_*.jsonl", "two logs of lm-evaluation-harness"),
        (
            "colinear accuracy base=logs/1.eval tuned=logs/2.eval --margin 1",
            "two of inspect; equal means within 1 point",
        ),
        ("colinear accuracy runs/tiny-a", "every run of a study, on the problems that it was judged by"),
        ("colinear accuracy a.jsonl b.jsonl --id question_id --correct ok", "any file, by its columns"),
        ("colinear accuracy a.jsonl b.jsonl --id id --answer output --reference gold", "the same, graded here"),
        note="Also read: lighteval's details (parquet) and Qwen2.5-Math's jsonl. NAME=FILE names a model.",
    ),
)
def accuracy(
    logs: Annotated[list[str], _several("LOG", "Item-level logs of two or more models.")],
    *,
    margin: Annotated[float, typer.Option(metavar="POINTS", help="Equal means: the interval lies within this.")] = 2.0,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="The metric or scorer that says right or wrong.")
    ] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", metavar="NAME", help="The filter of lm-evaluation-harness that is read.")
    ] = None,
    id_: Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="Column with the problem's id.")] = None,
    correct: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column that says right or wrong.")] = None,
    answer: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column with the answer, to be graded.")] = None,
    reference: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column with the reference answer.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: models, pairs, notes, margin.")] = False,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Folder for report.html and the tables.")] = None,
) -> int:
    """Compare models pair by pair on evaluation logs that exist: intervals, McNemar's test, verdicts with power."""
    from flows.cli.accuracy import run
    from tasks.evaluation.logs import Columns

    columns = Columns(id_, correct, answer, reference, metric, filter_)
    return run(logs, columns, margin=margin, as_json=as_json, folder=out)


@app.command(
    rich_help_panel=TRAINED,
    epilog=_examples(
        ("colinear inspect ./adapter", "did it train, and what did it touch"),
        ("colinear inspect ./a ./b --base MODEL", "two, each update beside the weights that it changes"),
        ("colinear inspect ./adapter --json --fail-on warning", "in CI: exit code 1 where something is wrong"),
    ),
)
def inspect(
    adapters: Annotated[list[str], _several("ADAPTER", "Folders, Hub ids or MLflow runs.")],
    *,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model that they were trained from: a directory or Hub id.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: an object for each adapter.")] = False,
    fail_on: Annotated[
        str | None, typer.Option(metavar="SEVERITY", help="Exit code 1 from this on: error, warning or info.")
    ] = None,
) -> int:
    """Look into adapters: did they train, what did they touch, is anything wrong with the files."""
    from flows.cli.inspect import run

    return run(adapters, base, as_json=as_json, fail_on=fail_on)


# --- servers and this machine ----------------------------------------------------------------------------------------


@app.command(
    rich_help_panel=MACHINE,
    epilog=_examples(
        ("colinear ui", "both servers, at ports 4200 and 5000"),
        ("colinear ui --prefect-port 4201 --mlflow-port 5001", "at other ports"),
    ),
)
def ui(
    *,
    prefect_port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="Port of Prefect's pages.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="Port of MLflow's pages.")] = 5000,
) -> int:
    """Show this project's studies in a browser, on the pages of Prefect and MLflow.

    Starts both servers on 127.0.0.1 with the stores of $COLINEAR_HOME; Ctrl-C stops them. Servers that
    $PREFECT_API_URL and $MLFLOW_TRACKING_URI name are used as they are.
    """
    from flows.cli.ui import run

    return run(prefect_port, mlflow_port)


@app.command(
    rich_help_panel=MACHINE,
    epilog=_examples(
        ("colinear serve", "beside `colinear ui` in another terminal"),
        ("colinear serve --limit 1 --webhook https://hooks.example.com/colinear", "one run at a time, and messages"),
    ),
)
def serve(
    *,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Most runs at once.")] = 2,
    webhook: Annotated[
        str | None,
        typer.Option(metavar="URL", help="POST a JSON message here when a run fails, crashes or has its report."),
    ] = None,
) -> int:
    """Run studies on this machine that are started from Prefect's pages or by its clock.

    Needs a Prefect server: `colinear ui`, or the one that $PREFECT_API_URL names. Registers a deployment for each
    preset, for comparisons and for sweeps, with example schedules that begin paused, and runs what is asked for until
    Ctrl-C. Runs share this machine's devices: each stage waits for a free one.
    """
    from flows.cli.serve import run

    return run(limit, webhook)


@app.command(
    rich_help_panel=MACHINE,
    epilog=_examples(
        ("colinear doctor", "what a study needs, a line each; exit code 1 where something is missing"),
        ("colinear doctor --base DIR", "how this model would be asked, before a study is begun"),
    ),
)
def doctor(
    *,
    base: Annotated[
        str | None, typer.Option(metavar="DIR", help="Show how this base model is asked, and what ends its answers.")
    ] = None,
    prompt_template: Annotated[
        str | None, typer.Option(metavar="TEXT", help="With --base: as model.prompt_template.")
    ] = None,
    template_date: Annotated[
        str | None, typer.Option(metavar="DAY", help="With --base: as model.template_date.")
    ] = None,
) -> int:
    """Say what this machine has, and what is in the way of a study."""
    from flows.cli.doctor import run

    return run(base, prompt_template, template_date)

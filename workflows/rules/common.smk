# Composed experiments, and what each of them has to make.

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import pandas
from snakemake.exceptions import WorkflowError

from ssm_seq.config import compose
from ssm_seq.data.samples import read_samples
from ssm_seq.errors import InputError
from ssm_seq.files import only_run_in

RESULTS = config["results"]

# Jobs find `ssm-seq` and `python` beside the Snakemake that started them, whatever is activated.
shell.prefix(f"export PATH='{Path(sys.executable).parent}':\"$PATH\"; ")


wildcard_constraints:
    experiment="[A-Za-z0-9_-]+",
    store="[A-Za-z0-9_-]+",


def plainly(function):
    """Bad input as one sentence and exit code 2; an exception would come with a traceback of this file."""

    @functools.wraps(function)
    def wrapper(*arguments):
        try:
            return function(*arguments)
        except (InputError, WorkflowError) as error:
            print(f"{function.__name__.replace('_', ' ')}: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    return wrapper


@functools.cache
@plainly
def experiment_config(name):
    return compose([f"experiment={name}"])


@functools.cache
def experiment_of_store(store):
    """A store is described by the listed experiment that names it, else by the experiment of its own name."""
    for name in config["experiments"] + config["stores"]:
        if experiment_config(name).data.store.name == store:
            return name
    return store


def store_config(store):
    return experiment_config(experiment_of_store(store)).data.store


@functools.cache
@plainly
def samples_of_store(store):
    sheet = store_config(store).samples
    samples = read_samples(sheet)
    rows = pandas.read_csv(
        sheet, sep="," if sheet.endswith(".csv") else "\t", dtype=str, keep_default_na=False
    )
    # Input functions run after parsing, when a relative path has no file to be relative to.
    validate(rows, f"{workflow.basedir}/workflows/schemas/samples.schema.yaml")
    return samples


def store_folder(wildcards):
    return f"{RESULTS}/stores/{experiment_config(wildcards.experiment).data.store.name}"


def store_files(wildcards):
    return [f"{store_folder(wildcards)}/{name}" for name in ("sequence.npy", "index.json")]


def values(name, *sections):
    """Sections of an experiment as text, for params: a job runs again when they change."""
    whole = dataclasses.asdict(experiment_config(name))
    whole["data"]["store"] = whole["data"]["store"]["name"]
    return json.dumps({section: whole[section] for section in sections}, sort_keys=True)


def config_digest(name):
    """Changes with the experiment. A result's parameters are shown in the report, where the page has the values."""
    whole = json.dumps(dataclasses.asdict(experiment_config(name)), sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def page_inputs(wildcards):
    """What the page of an experiment is made from: its store, and whatever the experiment makes of it."""
    name = wildcards.experiment
    files = [*store_files(wildcards), f"{store_folder(wildcards)}/summary.json"]
    if name in config["stores"]:
        return files
    experiment = experiment_config(name)
    made = ["run.json", "metrics.jsonl", "evaluation.json", "baselines.json"]
    made += ["score.json"] if experiment.score.input else []
    made += ["generated"] if experiment.generate.length else []
    return files + [f"{RESULTS}/{name}/{file}" for file in made]


@plainly
def check_stores():
    """Two experiments may share a store only if they describe it alike."""
    for name in config["experiments"] + config["stores"]:
        ours = experiment_config(name).data.store
        other = experiment_of_store(ours.name)
        if ours != store_config(ours.name):
            raise InputError(f"experiments {other} and {name} describe store {ours.name!r} differently")


check_stores()


# The lock goes with the process however it ends, so a killed run needs no unlocking (profiles set nolock).
onstart:
    workflow.run_lock = only_run_in(RESULTS)
    workflow.run_lock.__enter__()

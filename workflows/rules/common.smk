# Composed experiments, and what each of them has to make.

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from ssm_seq.config import compose
from ssm_seq.data.samples import read_samples, source_of
from ssm_seq.errors import InputError
from ssm_seq.files import only_run_in

# Found now: input functions run after parsing, when a relative path has no file to be relative to.
SAMPLES_SCHEMA = workflow.source_path("../schemas/samples.schema.yaml")

# Jobs find `ssm-seq` and `python` beside the Snakemake that started them, whatever is activated.
shell.prefix(f"export PATH='{Path(sys.executable).parent}':\"$PATH\"; ")


TASKS = config.get("tasks", {})


wildcard_constraints:
    experiment="[A-Za-z0-9_-]+",
    store="[A-Za-z0-9_-]+",
    task="|".join(TASKS) or "(?!)",
    point="[A-Za-z0-9_-]+",
    seed="[0-9]+",


def plainly(function):
    """Bad input as one sentence and exit code 2; an exception would come with a traceback of this file."""

    @functools.wraps(function)
    def wrapper(*arguments):
        try:
            return function(*arguments)
        except (InputError, WorkflowError) as error:
            # What follows the first paragraph of a schema's error is the schema itself.
            sentence = " ".join(str(error).partition("\n\n")[0].split())
            print(f"{function.__name__.replace('_', ' ')}: {sentence}", file=sys.stderr)
            raise SystemExit(2) from None

    return wrapper


plainly(validate)(config, "../schemas/workflow.schema.yaml")
RESULTS = config["results"]
POINTS = f"{RESULTS}/tasks/{{task}}/points/{{point}}/{{seed}}"


@functools.cache
@plainly
def experiment_config(name):
    return compose([f"experiment={name}"])


@functools.cache
@plainly
def experiment_of_store(store):
    """The listed experiment that describes a store, else the one of its name, else any in config/experiment."""
    unlisted = sorted(path.stem for path in Path("config/experiment").glob("*.yaml"))
    unlisted.sort(key=lambda name: name != store)
    for name in config["experiments"] + config["stores"] + unlisted:
        if experiment_config(name).data.store.name == store:
            return name
    raise InputError(f"no experiment has a store {store!r} (data.store.name)")


def store_config(store):
    return experiment_config(experiment_of_store(store)).data.store


@functools.cache
@plainly
def samples_of_store(store):
    samples = read_samples(store_config(store).samples)
    for sample in samples:
        row = {"sample": sample.name, "path": sample.files[0], "label": sample.label, "group": sample.group}
        validate({**row, "split": sample.split}, SAMPLES_SCHEMA)
    return samples


def sample_files(wildcards):
    """The files of a store's sheet; for one that comes from a source, the source."""
    files = [file for sample in samples_of_store(wildcards.store) for file in sample.files]
    return sorted({source_of(file) or file for file in files})


@plainly
def store_folder(wildcards):
    """Where the store of an experiment is; two experiments may share one only if they describe it alike."""
    ours = experiment_config(wildcards.experiment).data.store
    if ours != store_config(ours.name):
        raise InputError(
            f"experiments {experiment_of_store(ours.name)} and {wildcards.experiment} describe the store "
            f"{ours.name!r} differently; give one of them another data.store.name"
        )
    return f"{RESULTS}/stores/{ours.name}"


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
def point_overrides(wildcards):
    """What makes a point out of its task's experiment, but for the seed."""
    points = TASKS[wildcards.task]["points"]
    if wildcards.point not in points:
        known = ", ".join(points)
        raise InputError(f"task {wildcards.task} has no point {wildcards.point!r}; known: {known}")
    return [f"experiment={wildcards.task}", *points[wildcards.point].split()]


@functools.cache
@plainly
def composed(*overrides):
    return dataclasses.asdict(compose(overrides))


def point_values(wildcards, *sections):
    whole = composed(*point_overrides(wildcards))
    return json.dumps({section: whole[section] for section in sections}, sort_keys=True)


def task_points(wildcards):
    described = TASKS[wildcards.task]
    files = expand(f"{POINTS}/{{file}}", file=["run.json", "evaluation.json"], allow_missing=True)
    return expand(files, task=wildcards.task, point=described["points"], seed=described["seeds"])


def calls_files(wildcards):
    """The calls and their reference; for one that comes from a source, the source."""
    entry = config["variants"][wildcards.calls]
    return [source_of(entry[name]) or entry[name] for name in ("calls", "reference")]


def calls_model(wildcards):
    """Weights and description of the model that scores them."""
    folder = f"{RESULTS}/{config['variants'][wildcards.calls]['experiment']}/model"
    return [f"{folder}/config.json", f"{folder}/model.safetensors"]


@plainly
def hold_results_folder():
    """The lock goes with the process however it ends, so a killed run needs no unlocking (profiles set nolock)."""
    workflow.run_lock = only_run_in(RESULTS)
    workflow.run_lock.__enter__()


onstart:
    hold_results_folder()

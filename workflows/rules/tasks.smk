# Tasks without a store: one job for each model and seed, then one result and one figure for each task.

POINTS = f"{RESULTS}/tasks/{{task}}/points/{{point}}/{{seed}}"


wildcard_constraints:
    task="|".join(config["tasks"]) or "(?!)",
    point="[A-Za-z0-9_-]+",
    seed="[0-9]+",


@plainly
def point_overrides(wildcards):
    """What makes a point out of its task's experiment."""
    points = config["tasks"][wildcards.task]["points"]
    if wildcards.point not in points:
        known = ", ".join(points)
        raise InputError(f"task {wildcards.task} has no point {wildcards.point!r}; known: {known}")
    return [f"experiment={wildcards.task}", *points[wildcards.point].split(), f"optim.seed={wildcards.seed}"]


@functools.cache
@plainly
def composed(*overrides):
    return dataclasses.asdict(compose(overrides))


def point_values(wildcards, *sections):
    whole = composed(*point_overrides(wildcards))
    return json.dumps({section: whole[section] for section in sections}, sort_keys=True)


def task_points(wildcards):
    described = config["tasks"][wildcards.task]
    files = expand(f"{POINTS}/{{file}}", file=["run.json", "evaluation.json"], allow_missing=True)
    return expand(files, task=wildcards.task, point=described["points"], seed=described["seeds"])


rule train_point:
    output:
        weights=f"{POINTS}/model/model.safetensors",
        config=f"{POINTS}/model/config.json",
        metrics=f"{POINTS}/metrics.jsonl",
        run=f"{POINTS}/run.json",
    log:
        f"{RESULTS}/logs/train_point/{{task}}/{{point}}-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_point/{{task}}/{{point}}-{{seed}}.tsv"
    threads: 1
    params:
        config=lambda wildcards: point_values(wildcards, "data", "task", "model", "optim", "device"),
        folder=subpath(output.run, parent=True),
        overrides=point_overrides,
    shell:
        "ssm-seq train --out {params.folder} --threads {threads} {params.overrides:q} > {log} 2>&1"


rule evaluate_point:
    input:
        weights=rules.train_point.output.weights,
        config=rules.train_point.output.config,
    output:
        f"{POINTS}/evaluation.json",
    log:
        f"{RESULTS}/logs/evaluate_point/{{task}}/{{point}}-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_point/{{task}}/{{point}}-{{seed}}.tsv"
    threads: 1
    params:
        config=lambda wildcards: point_values(wildcards, "task", "evaluate", "device"),
        model=subpath(input.weights, parent=True),
        overrides=point_overrides,
    shell:
        "ssm-seq evaluate --model {params.model} --out {output} --threads {threads} {params.overrides:q}"
        " > {log} 2>&1"


rule task:
    input:
        task_points,
    output:
        f"{RESULTS}/tasks/{{task}}/result.json",
    log:
        f"{RESULTS}/logs/task/{{task}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/task/{{task}}.tsv"
    params:
        folder=lambda wildcards: f"{RESULTS}/tasks/{wildcards.task}/points",
        points=lambda wildcards: list(config["tasks"][wildcards.task]["points"]),
    shell:
        "python -m ssm_seq.reporting.task_results --points {params.folder} --only {params.points}"
        " --command 'snakemake {output}' --out {output} > {log} 2>&1"


rule task_figure:
    input:
        rules.task.output,
    output:
        report(
            f"{RESULTS}/tasks/{{task}}/result.svg",
            caption="../report/task.rst",
            category="Tasks",
            labels={"shown": "{task}"},
        ),
    log:
        f"{RESULTS}/logs/task_figure/{{task}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/task_figure/{{task}}.tsv"
    shell:
        "python -m ssm_seq.reporting.task_figure {input} > {log} 2>&1"


rule tasks:
    input:
        expand(f"{RESULTS}/tasks/{{task}}/result.svg", task=config["tasks"]),

# Tasks without a store: one job for each model and seed, then one result and one figure for each task.


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
        "ssm-seq train --out {params.folder} --threads {threads} {params.overrides:q}"
        " optim.seed={wildcards.seed} > {log} 2>&1"


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
        " optim.seed={wildcards.seed} > {log} 2>&1"


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
        points=lambda wildcards: list(TASKS[wildcards.task]["points"]),
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
        expand(f"{RESULTS}/tasks/{{task}}/result.svg", task=TASKS),

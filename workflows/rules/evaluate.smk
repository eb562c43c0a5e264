# A model, and beside it the simple baselines, on the test split.


rule evaluate:
    input:
        store_files,
        weights=rules.train.output.weights,
        config=rules.train.output.config,
    output:
        f"{RESULTS}/{{experiment}}/evaluation.json",
    log:
        f"{RESULTS}/logs/evaluate/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{experiment}}.tsv"
    threads: 1
    params:
        config=lambda wildcards: values(wildcards.experiment, "data", "task", "evaluate", "device"),
        store=store_folder,
        model=subpath(input.weights, parent=True),
    shell:
        "ssm-seq evaluate --store {params.store} --model {params.model} --out {output} --threads {threads}"
        " experiment={wildcards.experiment} > {log} 2>&1"


rule baselines:
    input:
        store_files,
    output:
        f"{RESULTS}/{{experiment}}/baselines.json",
    log:
        f"{RESULTS}/logs/baselines/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/baselines/{{experiment}}.tsv"
    threads: 1
    params:
        config=lambda wildcards: values(wildcards.experiment, "data", "task", "evaluate"),
        store=store_folder,
    shell:
        "ssm-seq evaluate --baselines --store {params.store} --out {output} --threads {threads}"
        " experiment={wildcards.experiment} > {log} 2>&1"

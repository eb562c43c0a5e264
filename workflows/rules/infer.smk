# Recurrent mode: one pass over a whole record, and sampling step by step.


rule score:
    input:
        weights=rules.train.output.weights,
        config=rules.train.output.config,
        file=lambda wildcards: experiment_config(wildcards.experiment).score.input,
    output:
        f"{RESULTS}/{{experiment}}/score.json",
    log:
        f"{RESULTS}/logs/score/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/score/{{experiment}}.tsv"
    threads: 1
    params:
        config=lambda wildcards: values(wildcards.experiment, "score", "device"),
        model=subpath(input.weights, parent=True),
    shell:
        "ssm-seq score --model {params.model} --input {input.file} --out {output} --threads {threads}"
        " experiment={wildcards.experiment} > {log} 2>&1"


rule generate:
    input:
        store_files,
        weights=rules.train.output.weights,
        config=rules.train.output.config,
    output:
        directory(f"{RESULTS}/{{experiment}}/generated"),
    log:
        f"{RESULTS}/logs/generate/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/generate/{{experiment}}.tsv"
    threads: 1
    params:
        config=lambda wildcards: values(wildcards.experiment, "data", "generate", "device"),
        store=store_folder,
        model=subpath(input.weights, parent=True),
    shell:
        "ssm-seq generate --model {params.model} --store {params.store} --out {output} --threads {threads}"
        " experiment={wildcards.experiment} > {log} 2>&1"

# Files of a sample sheet -> a byte store.


rule prepare:
    input:
        sheet=lambda wildcards: store_config(wildcards.store).samples,
        files=sample_files,
        reference=lambda wildcards: store_config(wildcards.store).reference or [],
    output:
        sequence=f"{RESULTS}/stores/{{store}}/sequence.npy",
        index=f"{RESULTS}/stores/{{store}}/index.json",
        summary=f"{RESULTS}/stores/{{store}}/summary.json",
    log:
        f"{RESULTS}/logs/prepare/{{store}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/prepare/{{store}}.tsv"
    params:
        experiment=lambda wildcards: experiment_of_store(wildcards.store),
        config=lambda wildcards: json.dumps(dataclasses.asdict(store_config(wildcards.store))),
        folder=subpath(output.index, parent=True),
    shell:
        "ssm-seq prepare --out {params.folder} experiment={params.experiment} > {log} 2>&1"

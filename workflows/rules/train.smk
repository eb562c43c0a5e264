# A store -> a model. Checkpoints lie in the undeclared folder checkpoints/, so that a killed job goes on.


rule train:
    input:
        store_files,
    output:
        weights=f"{RESULTS}/{{experiment}}/model/model.safetensors",
        config=f"{RESULTS}/{{experiment}}/model/config.json",
        metrics=f"{RESULTS}/{{experiment}}/metrics.jsonl",
        run=f"{RESULTS}/{{experiment}}/run.json",
    log:
        f"{RESULTS}/logs/train/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{experiment}}.tsv"
    # The longest jobs first, so that none of them is left over at the end.
    priority: 1
    threads: 1
    params:
        config=lambda wildcards: values(wildcards.experiment, "data", "task", "model", "optim", "device"),
        store=store_folder,
        folder=subpath(output.run, parent=True),
    shell:
        "ssm-seq train --store {params.store} --out {params.folder} --threads {threads}"
        " experiment={wildcards.experiment} > {log} 2>&1"

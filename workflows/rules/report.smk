# Result files -> figures, a page for each experiment and one over all of them; `--report` packs them into one file.


rule page:
    input:
        page_inputs,
    output:
        figures=report(
            directory(f"{RESULTS}/{{experiment}}/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figure.rst",
            category="Experiment {experiment}",
            labels=lambda wildcards: {"shown": wildcards.figure.replace("_", " ")},
        ),
        page=report(
            f"{RESULTS}/{{experiment}}/page.html",
            caption="../report/page.rst",
            category="Experiment {experiment}",
            # Sorts before every figure.
            labels={"shown": "a page with everything"},
        ),
    log:
        f"{RESULTS}/logs/page/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/page/{{experiment}}.tsv"
    params:
        config=lambda wildcards: config_digest(wildcards.experiment),
        folder=subpath(output.page, parent=True),
        store=store_folder,
        benchmarks=f"{RESULTS}/benchmarks",
    shell:
        "python -m ssm_seq.reporting.page --folder {params.folder} --store {params.store}"
        " --benchmarks {params.benchmarks} --figures {output.figures} --out {output.page}"
        " experiment={wildcards.experiment} > {log} 2>&1"


rule summary:
    input:
        [f"{RESULTS}/{name}/page.html" for name in config["experiments"] + config["stores"]],
    output:
        report(
            f"{RESULTS}/summary.html",
            caption="../report/summary.rst",
            category="All experiments",
            labels={"shown": "summary"},
        ),
    log:
        f"{RESULTS}/logs/summary.log",
    benchmark:
        f"{RESULTS}/benchmarks/summary.tsv"
    params:
        names=config["experiments"] + config["stores"],
        results=subpath(output[0], parent=True),
    shell:
        "python -m ssm_seq.reporting.summary --results {params.results} --out {output} {params.names} > {log} 2>&1"

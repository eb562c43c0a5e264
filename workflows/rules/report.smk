# Result files -> figures, a page for each experiment and one over all of them; `--report` packs them into one file.


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


def figure_label(wildcards):
    return {"shown": wildcards.figure.replace("_", " ")}


rule page:
    input:
        page_inputs,
    output:
        figures=report(
            directory(f"{RESULTS}/{{experiment}}/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figure.rst",
            category="Experiment {experiment}",
            labels=figure_label,
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
        config=lambda wildcards: json.dumps(
            dataclasses.asdict(experiment_config(wildcards.experiment))
        ),
        folder=subpath(output.page, parent=True),
        store=store_folder,
        benchmarks=f"{RESULTS}/benchmarks",
    shell:
        "python -m ssm_seq.reporting.page --folder {params.folder} --store {params.store}"
        " --benchmarks {params.benchmarks} --figures {output.figures} --out {output.page}"
        " experiment={wildcards.experiment} > {log} 2>&1"


rule summary:
    input:
        [
            f"{RESULTS}/{name}/page.html"
            for name in config["experiments"] + config["stores"]
        ],
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
        results=RESULTS,
    shell:
        "python -m ssm_seq.reporting.summary --results {params.results} --out {output} {params.names} > {log} 2>&1"

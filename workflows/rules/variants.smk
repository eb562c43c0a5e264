# Calls scored by the language model of an experiment, and their figure for the report.

SCORED = f"{RESULTS}/variants/{{calls}}"


wildcard_constraints:
    calls="|".join(config["variants"]) or "(?!)",


def calls_files(wildcards):
    """The calls and their reference; for one that comes from a source, the source."""
    entry = config["variants"][wildcards.calls]
    return [source_of(entry[name]) or entry[name] for name in ("calls", "reference")]


def calls_model(wildcards):
    """Weights and description of the model that scores them."""
    folder = f"{RESULTS}/{config['variants'][wildcards.calls]['experiment']}/model"
    return [f"{folder}/config.json", f"{folder}/model.safetensors"]


rule variants:
    input:
        calls_model,
        calls_files,
    output:
        vcf=f"{SCORED}/variants.vcf.gz",
        index=f"{SCORED}/variants.vcf.gz.tbi",
        table=f"{SCORED}/variants.tsv",
        skipped=f"{SCORED}/skipped.tsv",
        summary=f"{SCORED}/variants.json",
    log:
        f"{RESULTS}/logs/variants/{{calls}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/variants/{{calls}}.tsv"
    threads: 1
    params:
        config=lambda wildcards: values(
            config["variants"][wildcards.calls]["experiment"], "variants", "device"
        ),
        entry=lambda wildcards: config["variants"][wildcards.calls],
        model=subpath(input[0], parent=True),
        folder=subpath(output.summary, parent=True),
    shell:
        "ssm-seq score --model {params.model} --variants {params.entry[calls]:q}"
        " --reference {params.entry[reference]:q} --out {params.folder} --threads {threads}"
        " experiment={params.entry[experiment]} > {log} 2>&1"


rule variants_figure:
    input:
        rules.variants.output.table,
    output:
        report(
            f"{SCORED}.svg",
            caption="../report/variants.rst",
            category="Variants",
            labels={"calls": "{calls}"},
        ),
    log:
        f"{RESULTS}/logs/variants_figure/{{calls}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/variants_figure/{{calls}}.tsv"
    shell:
        "python -m ssm_seq.reporting.variants_figure {input} {output} > {log} 2>&1"


rule scored_variants:
    input:
        expand(f"{SCORED}.svg", calls=config["variants"]),

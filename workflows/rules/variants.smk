# Calls scored by the language model of an experiment, and their figure for the report.

SCORED = f"{RESULTS}/variants/{{calls}}"


wildcard_constraints:
    calls="|".join(config["variants"]) or "(?!)",


rule variants:
    input:
        calls_model,
        calls_files,
    output:
        directory(SCORED),
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
    shell:
        "ssm-seq score --model {params.model} --variants {params.entry[calls]:q}"
        " --reference {params.entry[reference]:q} --out {output} --threads {threads}"
        " experiment={params.entry[experiment]} > {log} 2>&1"


rule variants_figure:
    input:
        rules.variants.output,
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
        "python -m ssm_seq.reporting.variants_figure {input}/variants.tsv {output} > {log} 2>&1"


rule scored_variants:
    input:
        expand(f"{SCORED}.svg", calls=config["variants"]),

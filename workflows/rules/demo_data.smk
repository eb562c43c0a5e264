# Makes data/demo and its sample sheets again, from Debian's archive: `snakemake demo_data`. No output is
# declared, so that the committed data is input to everything else and never made by chance.


rule demo_data:
    input:
        [
            f"data/sources/{name}"
            for name in ("ragout-examples", "kleborate-examples", "bowtie2-examples", "bowtie2-programs")
        ],
        [f"data/sources/prompts-{language}" for language in ("en", "es", "fr", "it", "ru")],
    params:
        script=workflow.source_path("../scripts/cut_demo.py"),
    log:
        f"{RESULTS}/logs/demo_data.log",
    benchmark:
        f"{RESULTS}/benchmarks/demo_data.tsv"
    shell:
        "python {params.script} data/sources data/demo config/samples > {log} 2>&1"

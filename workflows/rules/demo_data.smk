# Makes data/demo and its sample sheets from Debian's archive: `snakemake demo_data`, with --force to make them
# again. No output is declared, so that the committed data is input to everything else and never made by chance.


rule demo_data:
    input:
        "data/sources/ragout-examples",
        "data/sources/kleborate-examples",
        "data/sources/bowtie2-examples",
        "data/sources/bowtie2-programs",
        expand("data/sources/prompts-{language}", language=["en", "es", "fr", "it", "ru"]),
    log:
        f"{RESULTS}/logs/demo_data.log",
    benchmark:
        f"{RESULTS}/benchmarks/demo_data.tsv"
    shell:
        "python workflows/scripts/cut_demo.py data/sources data/demo config/samples > {log} 2>&1"

"""From sample sheets to results/report.html. What to compute stands in config/, how in ssm_seq."""

from snakemake.utils import min_version

min_version("9.0")


configfile: "config/workflow.yaml"


container: config["container"]


report: "workflows/report/workflow.rst"


include: "workflows/rules/common.smk"
include: "workflows/rules/sources.smk"
include: "workflows/rules/demo_data.smk"
include: "workflows/rules/prepare.smk"
include: "workflows/rules/train.smk"
include: "workflows/rules/evaluate.smk"
include: "workflows/rules/infer.smk"
include: "workflows/rules/report.smk"
include: "workflows/rules/tasks.smk"
include: "workflows/rules/variants.smk"


rule all:
    default_target: True
    input:
        rules.summary.output,

# The whole paper: data -> teacher -> qat -> cga -> tables, figures -> MLflow.
#
#   snakemake                     the default study of params.yaml
#   snakemake fashion             another study
#   snakemake controls            a group of the default study by name; of another one: snakemake fashion-controls
#   snakemake exports             packed files and ONNX of the default study's main grid, and the table of their sizes
#   snakemake crate               its results, code and settings as one RO-Crate
#   snakemake everything          the default study with all of its groups, and a verdict on each claim
#   snakemake results/digits/vit_micro/w2a2/statsq-qkr/seed0/metrics.json     one ablation, alone
#   snakemake -n                  what would run, and why

from snakemake.utils import min_version

min_version("9.0")


report: "report/workflow.rst"


include: "rules/common.smk"


rule all:
    input:
        PLAN.all,
    message:
        f"Study {PLAN.params.study} is complete: see results/{PLAN.params.study}/report"


include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/measure.smk"
include: "rules/export.smk"
include: "rules/report.smk"
include: "rules/track.smk"


# Studies by their name, groups as STUDY-GROUP, and those of the default study as GROUP too.
for _name, _files in PLAN.names.items():

    rule:
        name:
            _name
        input:
            _files,
        localrule: True
        message:
            f"{_name} is complete"

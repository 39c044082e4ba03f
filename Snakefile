# The whole paper: data -> teacher -> qat -> cga -> tables, figures -> MLflow.
#
#   snakemake                     the default study of params.yaml
#   snakemake digits-lr           another study
#   snakemake results/digits/vit_micro/w2a2/statsq-qkr/seed0/metrics.json     one ablation, alone
#   snakemake -n                  what would run, and why

from snakemake.utils import min_version

min_version("9.0")


report: "report/workflow.rst"


include: "rules/common.smk"


rule all:
    input:
        study_targets(PARAMS.study),
    message:
        f"Study {PARAMS.study} is complete: see results/{PARAMS.study}/report"


include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/report.smk"
include: "rules/probe.smk"
include: "rules/track.smk"


for _study in PARAMS.studies:

    rule:
        name:
            _study
        input:
            study_targets(_study),
        localrule: True
        message:
            f"Study {_study} is complete: see results/{_study}/report"

rule track:
    input:
        PLAN.mirrored,
    output:
        stamp="results/{study}/mlflow.json",
    log:
        "logs/{study}/track.log",
    benchmark:
        "logs/{study}/track.tsv"
    localrule: True
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=1000,
    params:
        code=PLAN.code("track"),
    message:
        "Mirror the runs of study {wildcards.study} into MLflow"
    shell:
        "python -m ofq track --keep-going {wildcards.study} >> {log} 2>&1 && touch {output}"


use rule track as track_group with:
    output:
        "results/{study}/{report}/tracked",
    log:
        "logs/{study}/{report}/track.log",
    benchmark:
        "logs/{study}/{report}/track.tsv"

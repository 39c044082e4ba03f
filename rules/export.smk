rule export:
    input:
        manifest=PLAN.manifest,
        teacher=PLAN.of_teacher,
        model="results/{study}/{model}/{bits}/{variant}/seed{seed}/model.safetensors",
        metrics="results/{study}/{model}/{bits}/{variant}/seed{seed}/metrics.json",
        info="results/{study}/{model}/{bits}/{variant}/seed{seed}/run.json",
    output:
        packed="results/{study}/{model}/{bits}/{variant}/seed{seed}/export/packed.safetensors",
        onnx="results/{study}/{model}/{bits}/{variant}/seed{seed}/export/model.onnx",
        sizes="results/{study}/{model}/{bits}/{variant}/seed{seed}/export/sizes.json",
    log:
        "logs/{study}/{model}/{bits}/{variant}/seed{seed}-export.log",
    benchmark:
        "logs/{study}/{model}/{bits}/{variant}/seed{seed}-export.tsv"
    conda:
        "../envs/ofq.yaml"
    threads: PLAN.threads
    resources:
        mem_mb=1500,
    params:
        code=PLAN.code_of("export"),
    message:
        "Export {wildcards.bits} {wildcards.variant}, seed {wildcards.seed}, on {wildcards.study}: packed, and as ONNX"
    shell:
        "python -m ofq export --format all"
        " {wildcards.study}/{wildcards.model}/{wildcards.bits}/{wildcards.variant}/seed{wildcards.seed} >> {log} 2>&1"

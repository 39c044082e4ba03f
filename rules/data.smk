rule data:
    output:
        manifest="results/{study}/data/manifest.json",
        train="results/{study}/data/train.safetensors",
        eval="results/{study}/data/eval.safetensors",
        info="results/{study}/data/prepared.json",
    log:
        "logs/{study}/data.log",
    benchmark:
        "logs/{study}/data.tsv"
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=1500,
    params:
        settings=PLAN.data_settings,
        code=PLAN.data_code,
    message:
        "Prepare and verify the images of study {wildcards.study}"
    shell:
        "python -m ofq data {wildcards.study} >> {log} 2>&1"

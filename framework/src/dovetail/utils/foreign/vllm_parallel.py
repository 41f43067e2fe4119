"""Options of vLLM about several devices and machines."""

from __future__ import annotations

from dovetail.utils.foreign.option import Table, accept, refuse

ONE_DEVICE = "one process runs a model on one device"
RUN_SEVERAL = "leave it out, and run a server for each device behind a load balancer"

PARALLEL = Table(
    accept(
        "tensor-parallel-size",
        ONE_DEVICE,
        "-tp",
        only=(1,),
        reason="a model is not split over several devices yet",
        instead="take a model that fits one device, such as a quantized one",
    ),
    accept(
        "pipeline-parallel-size",
        ONE_DEVICE,
        "-pp",
        only=(1,),
        reason="a model is not split over several devices yet",
        instead="take a model that fits one device, such as a quantized one",
    ),
    accept("data-parallel-size", ONE_DEVICE, "-dp", only=(1,), reason=ONE_DEVICE, instead=RUN_SEVERAL),
    accept("data-parallel-size-local", ONE_DEVICE, "-dpl", only=(1,), reason=ONE_DEVICE, instead=RUN_SEVERAL),
    accept("data-parallel-rank", ONE_DEVICE, "-dpn", only=(0,), reason=ONE_DEVICE, instead=RUN_SEVERAL),
    accept("data-parallel-start-rank", ONE_DEVICE, "-dpr", only=(0,), reason=ONE_DEVICE, instead=RUN_SEVERAL),
    accept("decode-context-parallel-size", ONE_DEVICE, "-dcp", only=(1,), reason=ONE_DEVICE),
    accept("prefill-context-parallel-size", ONE_DEVICE, "-pcp", only=(1,), reason=ONE_DEVICE),
    accept("nnodes", ONE_DEVICE, "-n", only=(1,), reason=ONE_DEVICE, instead=RUN_SEVERAL),
    accept("node-rank", ONE_DEVICE, "-r", only=(0,), reason=ONE_DEVICE, instead=RUN_SEVERAL),
    refuse("data-parallel-hybrid-lb", ONE_DEVICE, RUN_SEVERAL, "-dph", takes="switch"),
    refuse("data-parallel-external-lb", ONE_DEVICE, RUN_SEVERAL, "-dpe", takes="switch"),
    refuse("data-parallel-multi-port-external-lb enable-elastic-ep enable-fault-tolerance", ONE_DEVICE, takes="switch"),
    refuse("headless", ONE_DEVICE, RUN_SEVERAL, takes="switch"),
    accept("data-parallel-address", f"{ONE_DEVICE}, and nothing is connected", "-dpa"),
    accept("data-parallel-rpc-port", f"{ONE_DEVICE}, and nothing is connected", "-dpp"),
    accept("data-parallel-backend", f"{ONE_DEVICE}, and nothing is connected", "-dpb"),
    accept("enable-expert-parallel", f"{ONE_DEVICE}, with all experts of the model", "-ep", takes="switch"),
    accept("enable-eplb enable-dbo enable-ep-weight-filter", f"{ONE_DEVICE}, and no load is balanced", takes="switch"),
    accept("eplb-config fault-tolerance-config", f"{ONE_DEVICE}, and no load is balanced", takes="json"),
    accept(
        "distributed-executor-backend master-addr master-port distributed-timeout-seconds all2all-backend "
        "expert-placement-strategy dcp-comm-backend dcp-kv-cache-interleave-size cp-kv-cache-interleave-size "
        "dbo-decode-token-threshold dbo-prefill-token-threshold ubatch-size num-redundant-experts eplb-window-size "
        "eplb-step-interval max-parallel-loading-workers dp-supervisor-probe-failure-threshold "
        "dp-supervisor-probe-interval-s dp-supervisor-probe-timeout-s",
        f"{ONE_DEVICE}, and has nobody to divide work with",
    ),
    accept(
        "disable-custom-all-reduce disable-nccl-for-dp-synchronization ray-workers-use-nsight worker-use-ray "
        "engine-use-ray eplb-log-balancedness",
        f"{ONE_DEVICE}, and has nobody to divide work with",
        takes="switch",
    ),
    refuse(
        "worker-cls worker-extension-cls scheduler-cls",
        "vLLM's classes do not run here",
        "write a plugin: docs/plugins.md",
    ),
    refuse("tokens-only", "prompts and answers of token ids alone are another engine's protocol", takes="switch"),
)

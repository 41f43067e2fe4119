"""``LLMEngine``, whose caller steps it; and what reaches the model behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dovetail import LLM, EngineArgs, LLMEngine, PoolingParams, RequestOutput, RequestOutputKind, SamplingParams
from dovetail.api import RequestError, UsageError
from dovetail.engine.step.sleep import _find_tensors as find_tensors

from ..tiny import write_checkpoint

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> LLM:
    return LLM(checkpoint, use_tqdm=False)


def finish(engine: LLMEngine) -> dict[str, list[RequestOutput]]:
    found: dict[str, list[RequestOutput]] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            found.setdefault(output.request_id, []).append(output)
    return found


def test_requests_join_while_others_run(checkpoint: Path) -> None:
    engine = LLMEngine.from_engine_args(EngineArgs(model=str(checkpoint)), use_tqdm=False)
    waiting: list[tuple[str, SamplingParams]] = [
        ("A robot", SamplingParams(temperature=0, logprobs=1, prompt_logprobs=1)),
        ("To be", SamplingParams(temperature=0.8, top_k=5, presence_penalty=0.2)),
        ("What is", SamplingParams(n=2, temperature=0.8, top_p=0.95, seed=3)),
    ]
    done: dict[str, RequestOutput] = {}
    number = 0
    while waiting or engine.has_unfinished_requests():
        if waiting:
            engine.add_request(str(number), *waiting.pop(0))
            number += 1
        done |= {output.request_id: output for output in engine.step() if output.finished}
    assert sorted(done) == ["0", "1", "2"]
    assert [len(done[name].outputs) for name in sorted(done)] == [1, 1, 2]
    assert done["0"].prompt_logprobs
    assert engine.get_num_unfinished_requests() == 0
    assert engine.step() == []


def test_what_a_step_gives(llm: LLM) -> None:
    engine = llm.llm_engine
    (whole,) = llm.generate("Hello", GREEDY, use_tqdm=False)
    for kind in RequestOutputKind:
        params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, output_kind=kind)
        engine.add_request(kind.name, "Hello", params)
    found = finish(engine)
    assert {name: len(outputs) for name, outputs in found.items()} == {"CUMULATIVE": 6, "DELTA": 6, "FINAL_ONLY": 1}
    assert [len(o.outputs[0].token_ids) for o in found["CUMULATIVE"]] == [1, 2, 3, 4, 5, 6]
    assert found["CUMULATIVE"][-1].outputs == found["FINAL_ONLY"][0].outputs == whole.outputs
    assert "".join(o.outputs[0].text for o in found["DELTA"]) == whole.outputs[0].text


def test_the_llm_runs_beside_requests_that_were_added(llm: LLM) -> None:
    engine = llm.llm_engine
    engine.add_request("0", "Hello", SamplingParams(temperature=0, max_tokens=40, ignore_eos=True))
    assert llm.generate("Hello", GREEDY, use_tqdm=False)[0].finished
    assert len(finish(engine)["0"][-1].outputs[0].token_ids) == 40


def test_an_abort(llm: LLM) -> None:
    engine = llm.llm_engine
    engine.add_request("gone", "Hello", GREEDY)
    with pytest.raises(RequestError, match="'gone' is running"):
        engine.add_request("gone", "Hello", GREEDY)
    engine.abort_request(["gone", "never heard of"])
    assert not engine.has_unfinished_requests()
    with pytest.raises(RequestError, match="2 prompts"):
        engine.add_request("two", ["a", "b"], GREEDY)
    with pytest.raises(RequestError, match=r"LLM\.encode"):
        engine.add_request("vector", "a", PoolingParams())  # type: ignore[arg-type]
    assert not engine.has_unfinished_requests()


def test_the_configuration_and_the_tokenizer(llm: LLM) -> None:
    config = llm.llm_engine.get_model_config()
    assert (config.max_model_len, config.get_vocab_size(), config.get_hidden_size()) == (512, 256, 48)
    assert llm.get_tokenizer() is llm.llm_engine.get_tokenizer()


def test_functions_reach_the_model(llm: LLM) -> None:
    (found,) = llm.apply_model(lambda model: type(model).__name__)
    assert isinstance(found, str)
    assert llm.collective_rpc(lambda worker, a, b=0: (worker.rank, a, b), args=(1,), kwargs={"b": 2}) == [(0, 1, 2)]
    assert llm.collective_rpc("get_model") == llm.apply_model(lambda model: model)
    assert llm.collective_rpc("list_loras") == [[]]
    with pytest.raises(UsageError, match=r"no method 'fly'.*reload_weights"):
        llm.collective_rpc("fly")
    with pytest.raises(UsageError, match="no method '__init__'"):
        llm.collective_rpc("__init__")
    with pytest.raises(UsageError, match="timeout"):
        llm.collective_rpc("check_health", timeout=3)


def test_hooks_see_what_modules_compute(llm: LLM) -> None:
    shapes: list[tuple[int, ...]] = []

    def install(model: Any) -> Any:
        return model.blocks[0].mlp.register_forward_hook(lambda module, given, out: shapes.append(tuple(out.shape)))

    (hook,) = llm.apply_model(install)
    llm.generate([[1, 2, 3]], SamplingParams(max_tokens=1), use_tqdm=False)
    hook.remove()
    assert shapes == [(3, 48)]


def test_weights_are_read_again(checkpoint: Path) -> None:
    def spoil(model: Any) -> None:
        with torch.inference_mode():
            for tensor in find_tensors(model, set()):
                tensor.zero_()

    llm = LLM(checkpoint, use_tqdm=False)
    (before,) = llm.generate("Hello", GREEDY, use_tqdm=False)
    llm.apply_model(spoil)
    llm.reset_prefix_cache()
    assert set(llm.generate("Hello", GREEDY, use_tqdm=False)[0].outputs[0].token_ids) == {0}
    llm.collective_rpc("reload_weights")
    assert llm.generate("Hello", GREEDY, use_tqdm=False)[0].outputs == before.outputs
    llm.sleep(level=2)
    llm.wake_up(tags=["weights"])
    llm.collective_rpc("reload_weights")
    assert llm.is_sleeping
    llm.wake_up(tags=["kv_cache"])
    assert llm.generate("Hello", GREEDY, use_tqdm=False)[0].outputs == before.outputs

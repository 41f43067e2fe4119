"""``dovetail plan --weights`` says what a model's weights are made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.cli.main import main

from ..tiny import CONFIG, write_checkpoint


def test_weights_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(write_checkpoint(tmp_path / "tiny", tie_word_embeddings=True))
    assert main(["plan", model]) == 0
    short = capsys.readouterr().out
    assert main(["plan", model, "--weights"]) == 0
    whole = capsys.readouterr().out
    assert whole.startswith(short.rstrip("\n"))
    layers = CONFIG["num_hidden_layers"]
    found = whole[len(short) :].lstrip().split("\n\n")
    assert (
        found[0]
        == f"weights        {7 * layers + 1} by the tensors that each is made of; {2 * layers + 1} other tensors are norms, biases and the like"
    )
    assert found[1].startswith(f"{7 * layers} linear, each of .weight (float32)\n  format       dense (dovetail ")
    assert found[2].startswith("1 embedding, each of .weight (float32)\n")
    assert found[3] == "lm_head has no weight of its own: it multiplies with the table of the embedding\n"

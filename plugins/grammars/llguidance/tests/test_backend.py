"""What the conformance kit cannot know: ends, special tokens, vocabularies, and where llguidance gives up."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from dovetail_grammars_llguidance.backend import Backend
from tokenizers import Tokenizer, decoders, models

from dovetail.api import GrammarSource, RequestError

from .tokens import CALL, CLOSE, END, TURN, VOCAB_SIZE, Follower, allowed, letters


def test_all_ends_where_it_may_end_and_they_alone_where_it_must() -> None:
    found = Follower("regex", "ab?")
    assert found.allowed() == {"a", "ab"}
    assert not found.accept(END)
    assert found.accept("a")
    assert found.allowed() == {"b", END, TURN}
    assert found.accept("b")
    assert found.allowed() == {END, TURN}


def test_past_its_end_only_ends_follow_and_each_can_be_taken_back() -> None:
    found = Follower("regex", "ab?")
    assert found.accept("a", TURN, END, TURN)
    assert found.allowed() == {END, TURN}
    assert not found.accept("b")
    found.state.rollback(2)
    assert found.allowed() == {END, TURN}
    found.state.rollback(1)
    assert found.allowed() == {"b", END, TURN}
    assert found.accept("b", END)
    found.state.rollback(3)
    assert found.allowed() == {"a", "ab"}


def test_a_grammar_may_name_an_end_token_as_a_part_of_itself() -> None:
    found = Follower("grammar", f'start: "a" {END} "b"')
    assert found.accept("a")
    assert found.allowed() == {END}
    assert not found.accept(TURN)
    assert found.accept(END)
    assert found.allowed() == {"b"}
    assert found.accept("b", TURN)


def test_special_tokens_are_no_text() -> None:
    found = Follower("regex", "[^a]*").allowed()
    assert {"b", "<", END, TURN} <= found
    assert not found & {"a", "ab", CALL, CLOSE}


def test_ids_that_the_tokenizer_lacks_are_never_allowed() -> None:
    size = letters().get_vocab_size()
    found = Follower("grammar", "start: <[*]>")
    assert max(allowed(found.state, VOCAB_SIZE)) < size
    assert [found.state.accept(token) for token in (-1, VOCAB_SIZE, 10**6)] == [False, False, False]


def test_logits_of_fewer_ids_than_the_tokenizer_has() -> None:
    tokenizer = letters()
    cut = tokenizer.token_to_id("ab")
    state = Backend(tokenizer, cut, [0]).compile(GrammarSource("regex", "a|(ab|b)c")).start()
    assert allowed(state, cut) == [tokenizer.token_to_id("a"), tokenizer.token_to_id("b")]


def test_text_that_is_forced_comes_in_the_tokens_that_the_model_knows_it_by() -> None:
    found = Follower("regex", "ab[0-9]")
    assert found.allowed() == {"ab"}
    assert found.accept("a", "b")  # the grammar itself has nothing against other tokens


@pytest.mark.parametrize("ends", [[], [-1, VOCAB_SIZE]])
def test_a_model_without_an_end_is_refused(ends: list[int]) -> None:
    with pytest.raises(RequestError, match="the model has no end-of-sequence token"):
        Backend(letters(), VOCAB_SIZE, ends)


def test_a_vocabulary_that_does_not_spell_in_bytes_is_refused() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(RequestError, match=r"llguidance cannot spell the tokens of the model's tokenizer .*WordPiece"):
        Backend(tokenizer, 2, [0])


TAG = {"schema": {"enum": [1, 2]}, "end": CLOSE}


@pytest.mark.parametrize(
    ("begin", "trigger", "written"),
    [
        (CALL, CALL, [CALL, "1", CLOSE]),
        (f"{CALL}a", CALL, [CALL, "a", "2", CLOSE]),
        ("<a>", "<a", ["<", "a", ">", "1", CLOSE]),
        ("<ab>", "<", ["<", "ab", ">", "1", CLOSE]),
    ],
)
def test_tags_begin_and_end_with_special_tokens_where_there_are_such(
    begin: str, trigger: str, written: list[str]
) -> None:
    form = {"structures": [{"begin": begin, **TAG}], "triggers": [trigger]}
    found = Follower("structural_tag", json.dumps(form))
    assert found.accept("b", "!", *written[:-2])
    assert found.allowed() == {"1", "2"}
    assert found.accept(*written[-2:], "a", *written, END)


def test_the_longest_trigger_of_a_tag_is_taken() -> None:
    tags = [{"begin": "<a>", **TAG}, {"begin": "<ab>", **TAG}]
    found = Follower("structural_tag", json.dumps({"structures": tags, "triggers": ["<a>", "<ab"]}))
    assert found.accept("b", "<", "a", ">", "1", CLOSE, "<", "ab", ">", "2", CLOSE, END)


@pytest.mark.parametrize("count", [3, 5000])
def test_choices_are_told_apart_however_many_they_are(count: int) -> None:
    found = Follower("choice", json.dumps(["", "é\n", *(f"c{number}" for number in range(count))]))
    assert found.allowed() == {"c", "Ã", END, TURN}
    assert found.accept("c", "1")
    digits = set("0123456789") if count > 1000 else set()
    assert found.allowed() == digits | {END, TURN}
    assert not found.accept("x")
    assert found.accept(END)


def test_a_form_that_nothing_has_is_refused() -> None:
    with pytest.raises(RequestError, match="no text that the model's vocabulary can spell has this form"):
        Follower("regex", r"[^\x00-\U0010FFFF]")


def test_a_dead_end_on_the_way_is_told() -> None:
    found = Follower("grammar", 'start: "a" <[290]>')
    assert found.accept("a")
    with pytest.raises(RequestError, match="the model's vocabulary has no token for what must follow"):
        found.allowed()


def test_special_tokens_that_the_tokenizer_lacks_are_refused() -> None:
    with pytest.raises(RequestError, match=r'at 1\(8\): unknown special token: "<\|x\|>"'):
        Follower("grammar", 'start: "a" <|x|>')


def test_a_parse_that_grows_without_bound_ends_with_its_reason() -> None:
    ways = "".join(f" | e{' e' * more}" for more in range(1, 40))
    found = Follower("grammar", f'start: e\ne: "a"{ways}')
    with pytest.raises(RequestError, match=r"the output cannot go on in its form: .*max is 2000") as caught:
        found.accept(*["a"] * 100)
    assert len(str(caught.value)) < 600


def test_sequences_of_one_grammar_do_not_disturb_each_other() -> None:
    backend = Backend(letters(), VOCAB_SIZE, [letters().token_to_id(END)])
    grammar = backend.compile(GrammarSource("regex", "(a|b|[0-9]{1,4}){60}"))

    def follow(seed: int) -> list[list[int]]:
        state = grammar.start()
        masks = []
        for step in range(60):
            masks.append(allowed(state, VOCAB_SIZE))
            assert state.accept(masks[-1][(seed * 7 + step * 3) % len(masks[-1])])
        return masks

    alone = [follow(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(follow, range(8))) == alone

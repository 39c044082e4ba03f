"""claims.yaml: the file that is shipped, and what is wrong with others in one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ofq.config import params
from ofq.config.yaml_model import read_model
from ofq.errors import UserError
from ofq.report.claims.page import comparison
from ofq.report.claims.quantities import MEASURES
from ofq.report.claims.terms import CLAIMS, Claim, ClaimsFile, load
from tests.conftest import ROOT
from tests.report.claim_runs import claim
from tests.report.claim_runs import params as plain

TOPICS = {"accuracy": "Accuracy"}


def test_the_shipped_claims_name_variants_of_the_shipped_parameters() -> None:
    file = load(params.load(ROOT / "params.yaml"), ROOT / CLAIMS)
    assert len(file.claims) >= 20
    assert {one.topic for one in file.claims.values()} == set(file.topics)


def test_each_shipped_claim_is_a_sentence_with_its_source_and_no_two_say_the_same() -> None:
    claims = list(read_model(ROOT / CLAIMS, ClaimsFile).claims.values())
    for one in claims:
        assert one.statement[0].isupper() and one.statement.endswith("."), one.statement
        assert one.source.startswith(("OFQ", "Nagel", "ours; ")), one.source
    assert len({one.statement for one in claims}) == len(claims)
    assert len({(comparison(one), tuple(one.bits or [])) for one in claims}) == len(claims)


def test_each_measure_and_each_key_has_a_row_in_the_guide() -> None:
    guide = (ROOT / "docs/claims.md").read_text()
    for name, measure in MEASURES.items():
        row = next((line for line in guide.splitlines() if line.startswith(f"| `{name}` | ")), "")
        options = row.rsplit("| ", 1)[-1]
        assert row and all(f"`{option}`" in options for option in (measure.takes, measure.needs) if option), name
        assert ("always" in options) == (measure.needs is not None), name
    for key in Claim.model_fields:
        assert f"`{key}`" in guide, key


def test_the_example_of_the_guide_is_a_claim() -> None:
    example = (ROOT / "docs/claims.md").read_text().split("```yaml\n")[1].split("```")[0]
    assert set(ClaimsFile.model_validate({"topics": TOPICS} | yaml.safe_load(example)).claims) == {"my-claim"}


def refusal(tmp_path: Path, entry: dict[str, Any]) -> str:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"topics": TOPICS, "claims": {"one": entry}}))
    with pytest.raises(UserError) as error:
        load(plain(), path)
    said = str(error.value)
    assert said.startswith(f"{path}: claims.one") and "\n" not in said, said
    return said.removeprefix(f"{path}: claims.one")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"expected": "above"}, ": unknown key 'expected'; did you mean 'expect'?"),
        ({"of": {"variants": "a"}}, ".of: unknown key 'variants'; did you mean 'variant'?"),
        ({"against": {"values": 1}}, ".against: unknown key 'values'; did you mean 'value'?"),
        ({"measure": "top"}, ".measure: unknown measure 'top'; did you mean 'top1'?"),
        ({"topic": "acuracy"}, ".topic: unknown topic 'acuracy'; did you mean 'accuracy'?"),
        ({"of": {"variant": "aa"}}, ".of.variant: unknown variant 'aa'; did you mean 'a'?"),
        ({"against": {"over": "bb"}}, ".against.over: unknown variant 'bb'; did you mean 'b'?"),
        ({"measure": "osc_share", "of": {"variant": "a", "layers": []}}, ".of.layers: List should have at least 1 item"),
        ({"measure": "noise_top1", "of": {"variant": "a", "where": "bound"}}, ".of.where: unknown where 'bound'; did you mean 'boundary'?"),
        ({"of": {}}, ".of.variant: Field required"),
        ({"against": {}}, ".against: names nothing"),
        ({"against": {"value": 1, "variant": "b"}}, ".against: value stands alone: leave out variant"),
        ({"against": {"curve": ["b", "c"], "layers": ["q"]}}, ".against: curve stands alone: leave out layers"),
        ({"against": {"curve": ["b"]}}, ".against.curve: List should have at least 2 items"),
        ({"against": {"curve": ["b", "dd"]}}, ".against.curve: unknown variant 'dd'; did you mean 'd'?"),
        ({"against": {"curve": ["b", "a"]}}, ": against.curve: name each variant once, and not that of `of`"),
        ({"against": {"curve": ["b", "b"]}}, ": against.curve: name each variant once, and not that of `of`"),
        ({"measure": "top1_best", "against": {"curve": ["b", "c"]}}, ": there is no curve of top1_best against step width"),
        ({"of": {"variant": "a", "over": "d"}, "against": {"curve": ["b", "c"]}}, ": a gain has no step width"),
        ({"against": {"teacher": False}}, ".against.teacher: Input should be True, not False"),
        ({"against": {"value": "1"}}, ".against.value: Input should be a valid number, not '1'"),
        ({"against": {"variant": "a"}}, ": of and against are the same"),
        ({"expect": "more"}, ".expect: Input should be 'below', 'above' or 'equal', not 'more'"),
        ({"expect": "equal"}, ": margin and `expect: equal` need each other"),
        ({"margin": 1}, ": margin and `expect: equal` need each other"),
        ({"expect": "equal", "margin": 0}, ".margin: Input should be greater than 0, not 0"),
        ({"bits": ["2"]}, ".bits.0: String should match pattern"),
        ({"bits": []}, ".bits: List should have at least 1 item"),
        ({"against": {"bits": "w3a3"}}, ": against.bits needs of.bits beside it"),
        ({"of": {"variant": "a", "bits": "w2a2"}, "against": {"bits": "w3a3"}, "bits": ["w2a2"]}, ": bits stand on both sides or for the whole claim"),
        ({"of": {"variant": "a", "layers": ["q"]}}, ": of: top1 takes no layers"),
        ({"measure": "gradient_turns"}, ": of: gradient_turns needs within"),
        ({"measure": "gradient_turns", "of": {"variant": "a", "within": [0.2, 0.1]}}, ": of: within should rise"),
        ({"measure": "gradient_turns", "of": {"variant": "a", "within": [0.2, 0.6]}}, ".of.within.1: Input should be less than or equal to 0.5"),
        ({"measure": "osc_share", "against": {"teacher": True}}, ": a teacher has no osc_share"),
        ({"against": {"measure": "loss"}}, ": top1 and loss have different units"),
        ({"against": {"value": 0}, "relative": True}, ": relative to a value of 0 is no number"),
        ({"statement": ""}, ".statement: String should have at least 1 character"),
        ({"source": None}, ".source: Field required"),
    ],
    ids=str,
)  # fmt: skip
def test_a_claim_that_makes_no_sense_is_one_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    assert refusal(tmp_path, claim(**change)).startswith(said)


def test_a_topic_of_batch_norms_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"topics": TOPICS, "batch_norms": ["acuracy"], "claims": {"one": claim()}}))
    with pytest.raises(UserError, match=r"batch_norms: unknown topic 'acuracy'; did you mean 'accuracy'\?"):
        load(plain(), path)


def test_a_missing_file_and_an_id_given_twice_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"claims\.yaml not found in .*; run from the project's root"):
        load(plain(), tmp_path / "claims.yaml")
    (tmp_path / "claims.yaml").write_text("claims:\n  one: {}\n  one: {}\n")
    with pytest.raises(UserError, match="key 'one' given twice"):
        load(plain(), tmp_path / "claims.yaml")

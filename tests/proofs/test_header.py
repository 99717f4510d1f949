"""The first line of a proof: what it may say, and one sentence with the field for everything else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from models.training import Training
from proofs.header import BadHeader, Header, Recipe, Tensors, parse, written
from tests.proofs.small import IMAGES, RECIPE, small


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Header:
    return small(tmp_path_factory.mktemp("header") / "proof", architecture=IMAGES, order=3).proof.header


def test_it_is_read_as_it_was_written(header: Header) -> None:
    line = written(header)
    assert "\n" not in line
    assert parse(line.encode()) == header
    assert written(parse(line.encode())) == line


def test_it_says_what_the_proof_is_of(header: Header) -> None:
    assert header.architecture == IMAGES
    assert header.recipe.training() == RECIPE
    assert (header.records.n, header.records.shape, header.deleted) == (22, (1, 4, 4), (3, 17))
    assert (header.steps, header.every, header.key, header.seed, header.order) == (12, 1, 4, 7, 3)
    assert (header.begins, header.inputs) == ("seed", False)
    assert header.weights.kinds == ("float32",) * len(header.weights.names)
    assert header.buffers.names == (
        "blocks.0.1.running_mean", "blocks.0.1.running_var", "blocks.0.1.num_batches_tracked"
    ) or set(map(str, header.buffers.kinds)) == {"float32", "int64"}  # fmt: skip
    assert set(header.machine) == {"torch", "device", "threads", "processor", "system"}


def test_checkpoints_and_sizes_are_counted(header: Header) -> None:
    sparse = replace(header, every=5, key=2)
    assert [step for step in range(13) if sparse.is_checkpoint(step)] == [0, 5, 10, 12]
    assert [step for step in range(13) if sparse.is_key(step)] == [0, 10, 12]
    state, moments = header.weights.bytes + header.buffers.bytes, header.moments.bytes
    assert [sparse.size(step, 5) - 20 for step in (3, 5, 10, 12)] == [0, state, state + moments, state + moments]
    assert replace(sparse, inputs=True).size(3, 5) == 20 + 4 * 5 * 16
    assert Tensors(names=("a", "b"), kinds=("float64", "int32"), shapes=((2, 3), ())).bytes == 52


def test_the_recipe_is_that_of_training() -> None:
    fields = set(asdict(Training()))
    assert set(Recipe.__dataclass_fields__) == fields - {"tolerance", "together"}  # of Newton's method, and of memory


def leaves(node: Any, outer: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a header."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*outer, key)
        yield from leaves(value, (*outer, key))


def put(node: Any, path: tuple[Any, ...], value: str) -> str:
    """The header as JSON, with the JSON text `value` in a place."""
    whole = json.loads(json.dumps(node))
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = "\0"
    return json.dumps(whole, sort_keys=True, separators=(",", ":")).replace('"\\u0000"', value)


BAD = (
    "NaN", "Infinity", "-Infinity", "1e400", "-1", "-0.5", "0.5", "true", "null", '"text"', '"../../etc/passwd"', "[]",
    "{}", "[[[]]]", str(10**30), "9" * 5000, '"\\ud800"', '"\\u001b[2J"', '{"__class__":"os.system"}', "1e300",
)  # fmt: skip
FREE = {  # places where one of these is as good as what stands there
    ("weights",), ("buffers",), ("records", "shape"), ("deleted",),
    ("architecture", "options"), ("architecture", "name"), ("records", "name"), ("machine",), ("order",), ("seed",),
    ("every",), ("key",), ("steps",), ("inputs",), ("recipe", "epochs"), ("recipe", "lr"), ("recipe", "weight_decay"),
    ("recipe", "batch_size"), ("recipe", "momentum"),
}  # fmt: skip


def refusal(line: str) -> str | None:
    """Why a header is refused; None where it is read, and then nothing was made of it that it does not say."""
    try:
        found = parse(line.encode())
    except BadHeader as error:
        return str(error)
    assert written(found) == line
    return None


def test_what_a_field_is_not_is_one_sentence(header: Header) -> None:
    """Every field, and every item of a list, with everything that it is not: refused, or a header that says so."""
    plain = json.loads(written(header))
    refused = 0
    for path in leaves(plain):
        for value in BAD:
            said = refusal(put(plain, path, value))
            if said is None:
                assert any(path[: len(free)] == free for free in FREE), (path, value)
            else:
                refused += 1
                assert said.isprintable(), (path, value)
                assert len(said) < 400, (path, value)
    assert refused > 1500


@pytest.mark.parametrize("field", ["steps", "every", "recipe", "records", "weights", "deleted", "inputs"])
def test_a_field_that_is_wrong_or_missing_is_named(field: str, header: Header) -> None:
    plain = json.loads(written(header))
    for value in ("NaN", "-1", '"text"'):
        with pytest.raises(BadHeader, match=field):
            parse(put(plain, (field,), value).encode())
    del plain[field]
    with pytest.raises(BadHeader, match=field):
        parse(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": "../../etc/passwd"}, "path"),
        ({"version": 2}, "version 2, and version 1"),
        ({"version": True}, "version"),
        ({"version": "\x1b[2J" * 100}, "version"),
        ({"format": "zip"}, "does not say that it is a proof"),
        ({"deleted": [17, 3]}, "deleted"),
        ({"deleted": [3, 3]}, "deleted"),
        ({"deleted": [22]}, "deleted"),
        ({"begins": "elsewhere"}, "begins"),
    ],
)
def test_what_no_header_says_is_refused(change: dict[str, Any], said: str, header: Header) -> None:
    plain = json.loads(written(header)) | change
    with pytest.raises(BadHeader, match=said) as raised:
        parse(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())
    assert str(raised.value).isprintable()


def nested(header: Header, name: str, **changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(written(header))
    return {**plain, name: {**plain[name], **changes}}


def test_moments_are_those_of_the_optimizer(header: Header) -> None:
    """A replay loads them by name."""
    for changes in (
        {"names": ["__class__"]}, {"shapes": [[3]]}, {"kinds": ["float64"]}, {"names": [], "kinds": [], "shapes": []},
    ):  # fmt: skip
        with pytest.raises(BadHeader, match="moments"):
            parse(json.dumps(nested(header, "moments", **changes), sort_keys=True, separators=(",", ":")).encode())
    for changes in ({"optimizer": "adam"}, {"momentum": 0.0}):
        with pytest.raises(BadHeader, match="moments"):
            parse(json.dumps(nested(header, "recipe", **changes), sort_keys=True, separators=(",", ":")).encode())


def test_names_that_stand_twice_and_no_weights_are_refused(header: Header) -> None:
    twice = nested(header, "buffers", names=[header.buffers.names[0]] * len(header.buffers.names))
    none = nested(header, "weights", names=[], kinds=[], shapes=[])
    for plain, said in ((twice, "buffers"), (none, "weights")):
        with pytest.raises(BadHeader, match=said):
            parse(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize("shape", [[2**53] * 8, [2**31, 2**31], [2**42]])
def test_a_state_that_no_machine_holds_is_refused(shape: list[int], header: Header) -> None:
    plain = nested(header, "weights", shapes=[shape] * len(header.weights.shapes))
    with pytest.raises(BadHeader, match="larger than any model"):
        parse(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())
    inputs = nested(header, "records", shape=shape) | {"inputs": True}
    with pytest.raises(BadHeader, match="larger than any model"):
        parse(json.dumps(inputs, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\xff\xfe", b"\x80abc", b"[]", b"null", b"3", b'"text"', b"{", b"[" * 100_000, b'{"a":' * 100_000,
        b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"PK\x03\x04", b"\x80\x04\x95", b"9" * 10_000,
    ],
)  # fmt: skip
def test_what_is_no_header_is_one_sentence(line: bytes) -> None:
    with pytest.raises(BadHeader, match="its first line"):
        parse(line)


def test_only_the_one_way_of_writing_it_is_read(header: Header) -> None:
    """Keys that stand twice, spaces, other orders and other numerals of the same number."""
    line = written(header)
    plain = json.loads(line)
    others = [
        line.replace('{"architecture"', '{"steps":3,"architecture"', 1), json.dumps(plain), f"{line} ",
        json.dumps(dict(reversed(plain.items())), separators=(",", ":")), line.replace('"lr":0.1', '"lr":1e-1'),
        line.replace('"epochs":3', '"epochs":3.0'), line.replace('"format"', '"f\\u006frmat"'),
    ]  # fmt: skip
    for other in others:
        assert other != line
        with pytest.raises(BadHeader):
            parse(other.encode())


def test_nothing_need_be_deleted(tmp_path: Path) -> None:
    assert small(tmp_path / "proof", deleted=()).proof.header.deleted == ()


def test_names_stay_what_they_are(tmp_path: Path) -> None:
    made = small(tmp_path / "proof", name="Größe 一")
    assert made.proof.header.records.name == "Größe 一"

"""What a manifest holds, what its fingerprint is of, and how two are told apart."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from roialign.errors import OptionError, StoreError
from roialign.extraction.store.manifest import Manifest, MapGrid, check, weights_sha256
from roialign.extraction.store.rows import RowSchema
from roialign.extraction.store.writing import writing

from .made import MANIFEST, SCHEMA

DIFFERENT = {
    "rows.feature_dtype": (
        {"schema": replace(SCHEMA, feature_dtype="float32")},
        'is "float16" there, "float32" here',
    ),
    "rows.columns": ({"schema": replace(SCHEMA, columns={})}, r"is \[\[.* there, \[\] here"),
    "backbone.weights_sha256": (
        {"backbone": {**MANIFEST.backbone, "weights_sha256": "12" * 32}},
        "is abababababab there, 121212121212 here",
    ),
    "grids.2.offset_yx": (
        {"grids": {**MANIFEST.grids, "2": MapGrid((16.0, 16.0), (7.5, 8.0))}},
        r"is \[8.0, 8.0\] there, \[7.5, 8.0\] here",
    ),
    "grids.3.stride_yx": ({"grids": {**MANIFEST.grids, "3": MapGrid((8.0, 8.0), (4.0, 4.0))}}, "is not there"),
    "transform.fit.size_hw": (
        {"transform": {**MANIFEST.transform, "fit": {"kind": "letterbox", "size_hw": [800, 800]}}},
        r"is \[640, 640\] there, \[800, 800\] here",
    ),
    "options.sampling_ratio": ({"options": {"output_size": [3, 3]}}, "is -1 there, not here"),
    "options.output_size": ({"options": {**MANIFEST.options, "output_size": [3, 3.0]}}, r"is \[3, 3\] there"),
    "images.sha256": ({"images_sha256": "0" * 64}, "is cdcdcdcdcdcd there, 000000000000 here"),
    "images.count": ({"image_count": 31}, "is 30 there, 31 here"),
    "images.per_part": ({"images_per_part": 11}, "is 10 there, 11 here"),
    "boxes.sha256": ({"boxes_sha256": "0" * 64}, "is efefefefefef there"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_extraction_is_refused_with_what_differs(tmp_path, name):
    changes, said = DIFFERENT[name]
    other = replace(MANIFEST, **changes)
    assert other.fingerprint != MANIFEST.fingerprint
    with writing(tmp_path, MANIFEST):
        pass
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(StoreError, match=f"RA711: .*{name} {said}") as raised, writing(tmp_path, other):
        pass
    assert str(tmp_path) in str(raised.value)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_all_that_differs_is_named_and_nothing_else():
    other = replace(MANIFEST, image_count=31, boxes_sha256="0" * 64, options={**MANIFEST.options, "levels": None})
    with pytest.raises(StoreError) as raised:
        check(MANIFEST, other, Path("folder"))
    assert str(raised.value) == (
        "RA711: expected folder to be empty or of this extraction; got another one: images.count is 30 there, 31 here; "
        "boxes.sha256 is efefefefefef there, 000000000000 here; options.levels is not there, null here. Choose another "
        "folder, or delete this one to begin anew."
    )


@pytest.mark.parametrize("changes", [{"command": "another"}, {"versions": {"torch": "3"}}, {}])
def test_who_wrote_it_decides_nothing(tmp_path, changes):
    other = replace(MANIFEST, **changes)
    assert other.fingerprint == MANIFEST.fingerprint
    with writing(tmp_path, MANIFEST):
        pass
    with writing(tmp_path, other):
        pass
    assert Manifest.read(tmp_path).command == MANIFEST.command


def test_it_is_read_as_it_was_written(tmp_path):
    MANIFEST.write(tmp_path)
    found = Manifest.read(tmp_path)
    assert found == MANIFEST
    assert list(found.grids) == ["2", "10"]
    assert found.schema == SCHEMA
    assert found.part_count == 3
    assert json.loads((tmp_path / "manifest.json").read_text())["fingerprint"] == MANIFEST.fingerprint


def test_the_fingerprint_does_not_depend_on_the_order_of_what_has_none():
    turned = replace(
        MANIFEST,
        options=dict(reversed(MANIFEST.options.items())),
        grids=dict(reversed(MANIFEST.grids.items())),
        backbone=dict(reversed(MANIFEST.backbone.items())),
    )
    assert turned.fingerprint == MANIFEST.fingerprint
    assert MANIFEST.fingerprint == "ab07f79405f5fb20af80d7ac41a1c42d8a7a0cf81d52584559c4280f4956086f"


def test_the_order_of_columns_counts():
    columns = dict(reversed(SCHEMA.columns.items()))
    assert replace(MANIFEST, schema=replace(SCHEMA, columns=columns)).fingerprint != MANIFEST.fingerprint


def test_an_edited_manifest_is_refused(tmp_path):
    MANIFEST.write(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"sampling_ratio": -1', '"sampling_ratio": 2'))
    with pytest.raises(StoreError, match=r"RA714: .*edited"):
        Manifest.read(tmp_path)


BROKEN = {
    "empty": "",
    "no JSON": '{"format": "roialign regions 1",',
    "a list": "[]",
    "of another format": '{"format": "roialign regions 9"}',
    "without entries": '{"format": "roialign regions 1"}',
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_manifest_is_refused(tmp_path, what):
    (tmp_path / "manifest.json").write_text(BROKEN[what])
    with pytest.raises(StoreError, match=r"RA714: expected .*manifest.json"), writing(tmp_path, MANIFEST):
        pass
    assert (tmp_path / "manifest.json").read_text() == BROKEN[what]


def test_parts_of_an_unknown_extraction_are_not_gone_on_with(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "00000000.parquet").touch()
    with pytest.raises(StoreError, match=r"RA711: .*without a manifest"), writing(tmp_path, MANIFEST):
        pass


def test_a_manifest_holds_what_json_does():
    with pytest.raises(TypeError, match="cannot hold a Tensor"):
        replace(MANIFEST, options={"x": torch.zeros(1)}).deciding()
    with pytest.raises(ValueError, match="JSON"):
        replace(MANIFEST, options={"x": float("nan")}).deciding()


def a_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2))


def test_the_hash_of_weights_is_of_their_values():
    model = a_model()
    expected = weights_sha256(model)
    assert weights_sha256(a_model().to(memory_format=torch.channels_last)) == expected
    assert weights_sha256(a_model().eval().requires_grad_(False)) == expected


def test_the_hash_of_weights_stays_what_it_is():
    model = nn.Linear(2, 1)
    model.weight, model.bias = nn.Parameter(torch.tensor([[1.0, 2.0]])), nn.Parameter(torch.tensor([3.0]))
    assert weights_sha256(model) == "4297e6beae3ec2a06621cdd1bbef61b41b1479a53926f2be87e4462e459fa594"


def changed(name: str) -> nn.Module:
    model = a_model()
    with torch.no_grad():
        if name == "value":
            model[0].weight[1, 2, 0, 0] += 1e-6
        elif name == "sign of zero":
            model[0].bias[0] = -0.0
        elif name == "buffer":
            model[1].num_batches_tracked += 1
        elif name == "dtype":
            model.half()
        elif name == "shape":
            model[2].weight = nn.Parameter(model[2].weight.reshape(4, 4))
        elif name == "name":
            model = nn.Sequential(*model, nn.Identity())
            model[3] = model[2]
    return model


@pytest.mark.parametrize("name", ["value", "sign of zero", "buffer", "dtype", "shape", "name"])
def test_the_hash_of_weights_sees_every_change(name):
    assert weights_sha256(changed(name)) != weights_sha256(a_model())


def test_the_hash_of_weights_does_not_depend_on_the_order_of_modules():
    model, other = a_model(), nn.Module()
    for name in ("2", "0", "1"):
        other.add_module(name, model.get_submodule(name))
    assert weights_sha256(other) == weights_sha256(model)


class Scaled(nn.Module):
    scale = 2

    def get_extra_state(self) -> dict[str, int]:
        return {"scale": self.scale}


def test_weights_of_any_type():
    model = Scaled()
    model.register_buffer("short", torch.zeros(2, 3, dtype=torch.bfloat16))
    model.register_buffer("none", torch.zeros(0, 3))
    model.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T)
    first = weights_sha256(model)
    model.scale = 3
    assert weights_sha256(model) != first


def test_a_schema_of_numbers_and_strings():
    assert RowSchema.from_dict(json.loads(json.dumps(SCHEMA.to_dict()))) == SCHEMA
    with pytest.raises(OptionError, match="RA506"):
        RowSchema.from_dict({"feature_shape": [8], "feature_dtype": "int8", "columns": []})

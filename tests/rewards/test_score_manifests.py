"""Sources of samples: every layout gives the images and prompts it says, and what does not fit is told."""

import json

import pytest
from PIL import Image

from diffalign.rewards.manifests import LAYOUTS, collect
from diffalign.rewards.score import score_items
from tests.rewards.small import Brightness, write_images


def facts(items, *names):
    return [tuple(vars(item)[name] for name in names) for item in items]


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def test_files_folders_and_globs_come_in_order(tmp_path):
    first = image(tmp_path / "b" / "2.png")
    second = image(tmp_path / "b" / "deep" / "1.JPG")
    (tmp_path / "b" / "notes.md").write_text("no image")
    third = image(tmp_path / "a.webp")
    items = collect([tmp_path / "b", third, tmp_path / "*.webp"], prompt="p")
    assert facts(items, "image", "prompt") == [(str(path), "p") for path in (first, second, third, third)]
    assert [item.sample.path for item in collect([f"{tmp_path}/**/*.JPG"])] == [second]


def test_prompts_of_a_file_in_order_or_by_stem(tmp_path):
    write_images(tmp_path / "i", 3)
    (tmp_path / "p.txt").write_text("one\ntwo\nthree\n\n")
    assert facts(collect([tmp_path / "i"], prompts=tmp_path / "p.txt"), "prompt") == [("one",), ("two",), ("three",)]
    (tmp_path / "p.json").write_text('["x", "y", "z"]')
    assert facts(collect([tmp_path / "i"], prompts=tmp_path / "p.json"), "prompt") == [("x",), ("y",), ("z",)]
    (tmp_path / "p.csv").write_text("id,caption\n00002,c\n00000,a\n")
    items = collect([tmp_path / "i"], prompts=tmp_path / "p.csv")
    assert facts(items, "prompt", "prompt_id") == [("a", "00000"), (None, None), ("c", "00002")]
    assert items[1].error == f"{tmp_path}/p.csv has no prompt with the id '00001'"
    (tmp_path / "i" / "00001.txt").write_text("its own")
    (tmp_path / "p.txt").write_text("one\nthree")
    assert facts(collect([tmp_path / "i"], prompts=tmp_path / "p.txt"), "prompt") == [("one",), ("its own",), ("three",)]
    assert facts(collect([tmp_path / "i"], prompt="all"), "prompt") == [("all",), ("its own",), ("all",)]


def test_sidecars_are_needed_where_the_layout_says_so(tmp_path):
    write_images(tmp_path, 3)
    (tmp_path / "00000.txt").write_text("first\n")
    (tmp_path / "00002.txt").write_text(" ")
    items = collect([tmp_path], layout="sidecar")
    assert [item.error for item in items] == [None, f"there is no {tmp_path}/00001.txt", f"{tmp_path}/00002.txt is empty"]
    assert items[0].prompt == "first" and [item.error for item in collect([tmp_path])] == [None] * 3


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_tables_name_paths_from_their_own_folder(tmp_path, kind):
    image(tmp_path / "data" / "x" / "1.png")
    rows = [{"gen_image_path": "x/1.png", "prompt": "a, b", "seed": 7, "metadata": "m"}, {"gen_image_path": "", "prompt": "c", "seed": 8}]
    texts = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "json": json.dumps(rows),
        "csv": 'gen_image_path,prompt,seed\nx/1.png,"a, b",7\n"",c,8\n',
    }
    path = tmp_path / "data" / f"m.{kind}"
    path.write_text(texts[kind])
    items = collect([path])
    assert facts(items, "image", "prompt", "seed") == [("x/1.png", "a, b", "7"), (items[1].image, "c", "8")]
    assert items[0].sample.load() == tmp_path / "data" / "x" / "1.png" and items[1].error.endswith("gen_image_path is ''; a path is needed")


def test_a_parquet_table_holds_its_images(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = write_images(tmp_path / "i", 7)
    struct = [{"bytes": path.read_bytes(), "path": None} for path in paths[:6]] + [{"bytes": None, "path": "i/00006.png"}]
    table = pa.table({"picture": struct, "caption": [f"{'p' * i}" for i in range(1, 8)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=3)
    items = collect([tmp_path / "t.parquet"], columns={"image": "picture"})
    assert items[4].image == f"{tmp_path}/t.parquet#4" and items[4].sample.load() == paths[4].read_bytes()
    found = score_items(items, {"b": Brightness()}, quiet=True)
    expected = Brightness().score(paths, [f"{'p' * i}" for i in range(1, 8)]).tolist()
    assert found.scores["b"] == expected and found.errors["b"] == [None] * 7
    pq.write_table(pa.table({"image": [paths[0].read_bytes(), None], "text": ["a", "b"]}), tmp_path / "b.parquet")
    found = score_items(collect([tmp_path / "b.parquet"]), {"b": Brightness()}, quiet=True)
    assert found.scores["b"][0] == Brightness().score(paths[:1], "a").item() and "has nothing in the column image" in found.errors["b"][1]


def test_image_folders_of_hugging_face(tmp_path):
    image(tmp_path / "train" / "1.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "train/1.png", "text": "a"}\n{"file_name": "train/2.png", "text": "b"}\n')
    for layout in ("auto", "imagefolder"):
        items = collect([tmp_path], layout=layout)
        assert facts(items, "image", "prompt") == [(f"{tmp_path}/train/1.png", "a"), (f"{tmp_path}/train/2.png", "b")]
    assert "No such file" in score_items(items, {"b": Brightness()}, quiet=True).errors["b"][1]
    with pytest.raises(ValueError, match="an image folder has a metadata.jsonl or metadata.csv, and this has none"):
        collect([tmp_path / "train"], layout="imagefolder")


def test_geneval(tmp_path):
    for i in (0, 1):
        image(tmp_path / f"{i:05d}" / "samples" / "0000.png")
        (tmp_path / f"{i:05d}" / "metadata.jsonl").write_text(json.dumps({"tag": "single_object", "include": [], "prompt": f"photo {i}"}))
    image(tmp_path / "00001" / "samples" / "0001.png")
    image(tmp_path / "00001" / "grid.png")
    expected = [("00000", "photo 0", "0000"), ("00001", "photo 1", "0000"), ("00001", "photo 1", "0001")]
    for layout in ("auto", "geneval"):
        assert facts(collect([tmp_path], layout=layout), "prompt_id", "prompt", "seed") == expected


def test_hpsv2(tmp_path):
    prompts = tmp_path / "benchmark"
    prompts.mkdir()
    for style in ("anime", "photo"):
        (prompts / f"{style}.json").write_text(json.dumps([f"{style} {i}" for i in range(2)]))
    image(tmp_path / "out" / "anime" / "00000.jpg")
    image(tmp_path / "out" / "anime" / "00001.jpg")
    image(tmp_path / "out" / "photo" / "00001.jpg")
    items = collect([tmp_path / "out"], layout="hpsv2", prompts=prompts)
    assert facts(items, "prompt", "prompt_id", "model") == [(f"{s} {i}", f"{s}/{i}", None) for s in ("anime", "photo") for i in (0, 1)]
    assert [item.error for item in items] == [None, None, f"there is no {tmp_path}/out/photo/00000.jpg", None]
    assert {item.model for item in collect([tmp_path], layout="hpsv2", prompts=prompts)} == {"out"}
    items = collect([tmp_path / "out" / "anime"], layout="hpsv2", prompts=prompts / "photo.json")
    assert facts(items, "prompt") == [("photo 0",), ("photo 1",)] and items[0].image.endswith("anime/00000.jpg")
    with pytest.raises(ValueError, match="none of the styles anime, photo is a folder of it"):
        collect([tmp_path / "out" / "anime"], layout="hpsv2", prompts=prompts)


def test_unigenbench_and_imagereward(tmp_path):
    for name in ("0_0", "0_1", "12_0", "7_0"):
        image(tmp_path / "u" / f"{name}.png")
    (tmp_path / "u.csv").write_text("index,prompt_en,sub_dims_en\n0,zero,{}\n12,twelve,{}\n3,three,{}\n")
    items = collect([tmp_path / "u"], layout="unigenbench", prompts=tmp_path / "u.csv")
    assert facts(items, "prompt_id", "prompt", "seed")[:3] == [("0", "zero", "0"), ("0", "zero", "1"), ("12", "twelve", "0")]
    assert items[3].error == f"there is no {tmp_path}/u/3_0.png" and items[4].error.endswith("no prompt with the id of 7_0.png")
    for model in ("sd2-1", "dalle2"):
        image(tmp_path / "g" / model / "005695-0057_0.png")
    (tmp_path / "g.json").write_text('[{"id": "005695-0057", "prompt": "a vehicle"}]')
    items = collect([tmp_path / "g"], layout="imagereward", prompts=tmp_path / "g.json")
    assert facts(items, "model", "prompt", "error") == [("dalle2", "a vehicle", None), ("sd2-1", "a vehicle", None)]


def test_what_does_not_fit_is_refused(tmp_path):
    write_images(tmp_path / "i", 2)
    (tmp_path / "p.txt").write_text("one")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jsonl").write_text("{}\n[")
    (tmp_path / "row.csv").write_text("image,prompt\na.png\n")
    for message, sources, options in (
        ("nowhere: there is no such file or folder", ["nowhere"], {}),
        ("nothing to score in .*empty: no file of images", [tmp_path / "empty"], {}),
        (r"\*.gif: no file of images matches", [f"{tmp_path}/*.gif"], {}),
        ("1 prompts and 2 samples have none of their own", [tmp_path / "i"], {"prompts": tmp_path / "p.txt"}),
        ("there is no file .*q.txt", [tmp_path / "i"], {"prompts": tmp_path / "q.txt"}),
        ("not both", [tmp_path / "i"], {"prompts": tmp_path / "p.txt", "prompt": "p"}),
        ("layout is 'coco'; allowed are auto, folder", [tmp_path / "i"], {"layout": "coco"}),
        ("the layout hpsv2 numbers its prompts", [tmp_path / "i"], {"layout": "hpsv2"}),
        ("GenEval's layout is", [tmp_path / "i"], {"layout": "geneval"}),
        ("the layout geneval is that of a folder, and this is none", [tmp_path / "p.txt"], {"layout": "geneval"}),
        ("no image is called id_number.png", [tmp_path / "i"], {"layout": "unigenbench", "prompts": tmp_path / "p.txt"}),
        ("needed is one of image, file_name", [tmp_path / "bad.jsonl"], {}),
        ("'image' is mapped to 'x', which is not there", [tmp_path / "bad.jsonl"], {"columns": {"image": "x"}}),
        ("columns: unknown pic; ours are image, prompt", [tmp_path / "bad.jsonl"], {"columns": {"pic": "x"}}),
        ("row 1 has more or fewer fields", [tmp_path / "row.csv"], {}),
    ):
        with pytest.raises(ValueError, match=message):
            collect(sources, **options)
    assert set(LAYOUTS) == {"auto", "folder", "sidecar", "imagefolder", "geneval", "hpsv2", "unigenbench", "imagereward"}

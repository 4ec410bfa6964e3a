"""Finding and reading checkpoints: what is missing is named, what does not fit is named, and nothing is run."""

import pickle
import shutil

import pytest
import torch

from diffalign.rewards import load_reward, tokenizers, weights
from diffalign.rewards.base import sha256
from tests.rewards import tiny


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty hub cache, and a hub that is not asked."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(
    "name, file, repository",
    [
        ("hpsv2", "HPS_v2_compressed.pt", "xswu/HPSv2"),
        ("hpsv2.1-legacy", "HPS_v2.1_compressed.pt", "xswu/HPSv2"),
        ("pickscore", "config.json", "yuvalkirstain/PickScore_v1"),
        ("clip-h14", "open_clip_model.safetensors or open_clip_pytorch_model.bin", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
        ("imagereward", "ImageReward.pt", "THUDM/ImageReward"),
        ("mps", "model.safetensors", "RE-N-Y/mpsv1"),
    ],
)
def test_a_missing_checkpoint_names_file_source_and_remedy(offline, name, file, repository, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load_reward(name)
    assert f"'{name}' needs {file} of {repository}" in str(error.value) and f"--weights {name}=PATH" in str(error.value)
    with pytest.raises(FileNotFoundError, match="does not hold it"):
        load_reward(name, str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load_reward(name, str(tmp_path / "nowhere"))


def test_the_cache_of_the_hub_is_used_without_asking_the_hub(offline, tmp_path, tiny_folder):
    """The layout that huggingface_hub keeps its files in."""
    made, config = tiny.checkpoint("clip-h14", tiny_folder)
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--laion--CLIP-ViT-H-14-laion2B-s32B-b79K"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    shutil.copy(made / "open_clip_pytorch_model.bin", repository / "snapshots" / commit)  # the second of the names it may have
    cached, given = load_reward("clip-h14", config=config), load_reward("clip-h14", str(made), config=config)
    assert cached.state() == given.state()


def test_a_file_with_a_url_is_kept_and_checked(monkeypatch, tmp_path):
    """A local file's URL stands for the published one."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    (tmp_path / "served.pth").write_bytes(b"weights")
    digest = sha256(tmp_path / "served.pth")
    source = weights.Source("some/repository", (("head.pth",),), url=(tmp_path / "served.pth").as_uri(), digest=digest)
    (found,) = source.find("aesthetic")
    assert found.read_bytes() == b"weights" and found == tmp_path / "home" / "hub" / "checkpoints" / "head.pth"
    (tmp_path / "served.pth").unlink()
    assert source.find("aesthetic") == [found]
    (tmp_path / "served.pth").write_bytes(b"other weights")
    found.unlink()
    with pytest.raises(FileNotFoundError, match="head.pth of some/repository on GitHub: .*invalid hash value"):
        source.find("aesthetic")


def test_a_folder_is_needed_where_one_file_is_not_enough(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileNotFoundError, match="config.json, model.safetensors or pytorch_model.bin .* is one file, and a folder"):
        load_reward("pickscore", str(tmp_path / "model.safetensors"))


def test_what_does_not_fit_is_named(tmp_path):
    state = tiny.open_clip_network().state_dict()
    state["visual.proj"], state["extra"] = torch.zeros(3, 3), torch.zeros(1)
    del state["ln_final.weight"]
    torch.save({"state_dict": state}, tmp_path / "own.pt")
    wrong = r"1 missing \(ln_final.weight\); 1 unexpected \(extra\); 1 of another shape \(visual.proj\)"
    with pytest.raises(ValueError, match=wrong):
        load_reward("hpsv2.1", str(tmp_path / "own.pt"), config=tiny.OPEN_CLIP)


def test_checkpoints_of_training_scripts_are_unwrapped(tmp_path, tiny_folder):
    made, config = tiny.checkpoint("hpsv2.1", tiny_folder)
    state = torch.load(made / "HPS_v2.1_compressed.pt", weights_only=True)["state_dict"]
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "epoch_3.pt")
    wrapped, plain = load_reward("hpsv2.1", str(tmp_path / "epoch_3.pt"), config=config), load_reward("hpsv2.1", str(made), config=config)
    images = tiny.images(2)
    assert torch.equal(wrapped.score(images, "x"), plain.score(images, "x"))
    assert wrapped.state()["weights"] == {"file": "epoch_3.pt", "sha256": sha256(tmp_path / "epoch_3.pt")} != plain.state()["weights"]


class Malicious:
    def __reduce__(self):
        return pytest.fail, ("a checkpoint ran code",)


def test_a_pickle_that_is_more_than_tensors_is_not_run(tmp_path):
    with open(tmp_path / "MPS_overall_checkpoint.pth", "wb") as file:
        pickle.dump(Malicious(), file, protocol=2)
    torch.save({"model": Malicious()}, tmp_path / "model.bin")
    for name in ("MPS_overall_checkpoint.pth", "model.bin"):
        with pytest.raises(ValueError, match="holds more than tensors and is refused"):
            load_reward("mps", str(tmp_path / name))
    (tmp_path / "cut.bin").write_bytes((tmp_path / "model.bin").read_bytes()[:100])
    (tmp_path / "cut.safetensors").write_bytes(b"abc")
    for name in ("cut.bin", "cut.safetensors"):
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            load_reward("mps", str(tmp_path / name))
    torch.save([1, 2], tmp_path / "list.bin")
    with pytest.raises(ValueError, match="is no state_dict"):
        load_reward("mps", str(tmp_path / "list.bin"))


def test_options_and_configs_that_a_reward_does_not_have_are_refused(tiny_folder):
    weights_, config = tiny.checkpoint("hpsv2.1", tiny_folder)
    with pytest.raises(ValueError, match="'hpsv2.1' has no option scales; it has antialias, file, preprocess, scale"):
        load_reward("hpsv2.1", str(weights_), config=config, scales=1)
    with pytest.raises(ValueError, match="config must be a dict like open_clip.get_model_config"):
        load_reward("hpsv2.1", str(weights_), config=3)
    with pytest.raises(ValueError, match="config must be a CLIPConfig or a dict"):
        load_reward("mps", str(tiny.checkpoint("mps", tiny_folder)[0]), config=3)


def test_a_tokenizer_that_came_up_empty_is_refused(tmp_path, tiny_folder):
    """transformers 5 makes one of two or five entries from a folder without its files, without an error."""
    from transformers import CLIPTokenizer

    made, _ = tiny.checkpoint("pickscore", tiny_folder)
    shutil.copytree(made, tmp_path / "empty")
    (tmp_path / "empty" / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1}')
    (tmp_path / "empty" / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="has 2 entries and its network was built for 49408: its files are missing"):
        load_reward("pickscore", str(tmp_path / "empty"))
    vocabulary = [f"word{i}</w>" for i in range(98)] + ["<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "empty" / "vocab.json").write_text(str({token: i for i, token in enumerate(vocabulary)}).replace("'", '"'))
    with pytest.raises(ValueError, match="does not know the words of 'a photo of a red cube"):
        tokenizers.check(CLIPTokenizer.from_pretrained(tmp_path / "empty"), 100, "this")


def test_tokenizer_files_are_asked_for_by_name(offline, tmp_path, tiny_folder):
    made, config = tiny.checkpoint("pickscore", tiny_folder)
    shutil.copytree(made, tmp_path / "bare")
    (tmp_path / "bare" / "merges.txt").unlink()
    wanted = "vocab.json or tokenizer.json of laion/CLIP-ViT-H-14-laion2B-s32B-b79K .* tokenizer=PATH in Python; or put it into one folder"
    with pytest.raises(FileNotFoundError, match=wanted):
        load_reward("pickscore", str(tmp_path / "bare"))
    assert load_reward("pickscore", str(tmp_path / "bare"), tokenizer=str(made)).score(tiny.images(1), "x").isfinite()


def test_a_long_prompt_ends_with_end_of_text(rewards):
    long = "a very long prompt " * 60
    ids = rewards("pickscore").towers.tokenizer([long])["input_ids"]
    assert ids.shape == (1, 77) and ids[0, 0] == 49406 and ids[0, 76] == 49407
    assert rewards("hpsv2.1").towers.tokenizer([long])[0, [0, 76]].tolist() == [49406, 49407]
    words = rewards("imagereward").tokenizer([long, "[ENC] [DEC]"])["input_ids"]
    assert words.shape == (2, 35) and words[0, [0, 34]].tolist() == [101, 102] and words[1, :5].tolist() == [101, 30523, 30522, 102, 0]


def test_both_libraries_read_a_prompt_alike(rewards):
    prompts = ["a photo of a cat", "It's 10 o'clock, isn't it?!", "  Two\n\nSPACES  ", "naïve café", ""]
    theirs, ours = rewards("hpsv2.1").towers.tokenizer(prompts), rewards("pickscore").towers.tokenizer(prompts)["input_ids"]
    for first, second in zip(theirs.tolist(), ours.tolist(), strict=True):
        assert first[: first.index(49407) + 1] == second[: second.index(49407) + 1]

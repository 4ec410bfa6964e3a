"""Images as features: the published preprocessings written out a second time, and networks of random weights in the published formats."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.eval.distances import inception
from diffalign.eval.distances.features import centre_square, from_function, from_reward, load_features, names, small_pixels
from diffalign.rewards.preprocess import MEAN, STD, Preparation
from tests.rewards import tiny
from tests.rewards.conftest import rewards, tiny_folder  # noqa: F401

SIZES = [(512, 384), (97, 61), (299, 299)]  # shrunk, enlarged, left alone


def levels(image) -> np.ndarray:
    """(3, H, W) float64 in [0, 255]."""
    return np.asarray(image, dtype=np.float64).transpose(2, 0, 1)


def bicubic_matrix(inputs: int, outputs: int) -> np.ndarray:
    """(outputs, inputs) weights of an antialiased bicubic resize, a = -1/2, as PIL defines it: the cubic of width 2 around each output's
    centre, widened by the scale where it shrinks, cut at the edges and brought to the sum 1."""
    scale = inputs / outputs
    wide, matrix = max(scale, 1.0), np.zeros((outputs, inputs))
    for i in range(outputs):
        centre = (i + 0.5) * scale
        first, last = max(0, int(centre - 2 * wide + 0.5)), min(inputs, int(centre + 2 * wide + 0.5))
        x = np.abs((np.arange(first, last) + 0.5 - centre) / wide)
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
        matrix[i, first:last] = weights / weights.sum()
    return matrix


# Resizes of Inception ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_clean_resize_is_a_bicubic_matrix_clamped_and_not_rounded(size):
    image = tiny.image(0, size)
    rows, columns = bicubic_matrix(size[1], 299), bicubic_matrix(size[0], 299)
    wanted = (rows @ levels(image) @ columns.T).clip(0, 255)
    found = inception.clean(image)
    assert found.shape == (3, 299, 299) and found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=2e-3)  # PIL sums in float32
    fraction = float((found - found.round()).abs().max())
    assert fraction == 0 if size == (299, 299) else fraction > 0.4
    if size != (299, 299):
        assert found.min() == 0 or found.max() == 255  # the picture has edges that overshoot


def test_clean_resize_is_clean_fids():
    theirs = pytest.importorskip("cleanfid.resize").build_resizer("clean")
    for size in SIZES:
        image = tiny.image(1, size)
        assert np.array_equal(inception.clean(image).numpy(), theirs(np.asarray(image)).transpose(2, 0, 1))


def test_pytorch_resize_takes_the_two_nearest_pixels():
    """Half-pixel centres, no antialiasing: output i lies at (i + 1/2) s - 1/2, cut at the edges."""
    image = tiny.image(2, (97, 61))

    def matrix(inputs):
        at = np.clip((np.arange(299) + 0.5) * inputs / 299 - 0.5, 0, inputs - 1)
        low = np.minimum(at.astype(int), inputs - 2)
        return np.eye(inputs)[low] * (1 - (at - low))[:, None] + np.eye(inputs)[low + 1] * (at - low)[:, None]

    np.testing.assert_allclose(inception.pytorch(image).numpy(), matrix(61) @ levels(image) @ matrix(97).T, rtol=0, atol=2e-3)


# Inception -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fidelity():
    return pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")


@pytest.fixture(scope="module")
def inception_folder(fidelity, tmp_path_factory):
    """Random weights under the published file's name and in its format. torch-fidelity's class cannot be made without reading some."""

    class Blank(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, state, **kwargs):
            return None

    folder = tmp_path_factory.mktemp("inception")
    path = folder / fidelity.URL_INCEPTION_V3.rpartition("/")[2]
    torch.save({}, path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(Blank("blank", ["2048"], str(path)).state_dict(), path)
    return folder


def test_inception_is_torch_fidelitys_network(fidelity, inception_folder):
    """On images of any size with its own resize; at 299 x 299 with every resize."""
    path = next(inception_folder.iterdir())
    theirs = fidelity.FeatureExtractorInceptionV3("theirs", ["2048", "logits_unbiased"], str(path))
    own = load_features("inception-tensorflow", str(inception_folder))
    logits = load_features("inception-logits", str(path))
    for size in ((120, 80), (299, 299)):
        image = tiny.image(0, size)
        wanted = [rows.numpy() for rows in theirs(torch.from_numpy(levels(image)).byte()[None])]
        np.testing.assert_allclose(own([image]), wanted[0], rtol=1e-5, atol=1e-6 * abs(wanted[0]).max())
        np.testing.assert_allclose(logits([image]), wanted[1], rtol=1e-4, atol=1e-5 * abs(wanted[1]).max())
    clean = load_features("inception", str(inception_folder))
    np.testing.assert_allclose(clean([image]), wanted[0], rtol=1e-5, atol=1e-6 * abs(wanted[0]).max())
    assert own([image]).shape == (1, 2048) and logits([image]).shape == (1, 1008)
    assert clean.state()["resize"] == "clean" and len(clean.state()["weights"]["sha256"]) == 64 and "clean-fid" in clean.caution


def test_inception_weights_that_are_not_there_or_do_not_fit(fidelity, tmp_path):
    with pytest.raises(FileNotFoundError, match="'inception' needs weights-inception-2015-12-05-6726825d.pth .* copy as weights=PATH"):
        load_features("inception", str(tmp_path))
    path = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    torch.save({"fc.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(ValueError, match="does not fit torch-fidelity's Inception"):
        load_features("inception", str(path))
    torch.save({"fc.weight": tiny.image(0)}, path)
    with pytest.raises(ValueError, match="more than tensors and is refused"):
        load_features("inception", str(path))


# CLIP ----------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A transformers folder without a tokenizer, which image features do not need."""
    folder = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        tiny.clip_network().save_pretrained(folder)
    return folder


def test_clip_features_are_transformers_projected_embeddings(clip_folder):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig.from_pretrained(clip_folder, projection_dim=tiny.CLIP["projection_dim"])
    network = CLIPVisionModelWithProjection.from_pretrained(clip_folder, config=config).eval()
    image = tiny.image(0, (90, 60))
    square = image.crop((15, 0, 75, 60)).resize((tiny.SIDE, tiny.SIDE), Image.Resampling.BICUBIC)  # cmmd-pytorch's io_util.py
    pixels = (levels(square) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    with torch.no_grad():
        wanted = network(pixel_values=torch.from_numpy(pixels).float()[None]).image_embeds.numpy()
    found = load_features("clip-l14-336", str(clip_folder))([image])
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), rtol=0, atol=2e-6)
    cropped = Preparation("crop", tiny.SIDE, rgb="after", crop_rounding="round")(image)
    with torch.no_grad():
        wanted = network(pixel_values=cropped[None]).image_embeds.numpy()
    found = load_features("clip-l14", str(clip_folder))
    np.testing.assert_allclose(found([image]), wanted / np.linalg.norm(wanted), rtol=0, atol=2e-6)
    assert len(found.state()["weights"]["sha256"]) == 64 and found.state()["preprocess"]["fit"] == "crop"


def test_the_middle_square():
    assert np.array_equal(np.asarray(centre_square(tiny.image(0, (7, 4)))), np.asarray(tiny.image(0, (7, 4)))[:, 1:5])
    assert centre_square(tiny.image(0, (4, 9))).size == (4, 4)


@pytest.mark.parametrize("name", ["pickscore", "aesthetic"])
def test_features_of_a_loaded_reward(rewards, name):  # noqa: F811
    """At length 1; for a CLIP score their product with the prompt's features is the cosine that the reward scales."""
    reward, images = rewards(name), tiny.images(3, size=(80, 50))
    extractor = from_reward(reward)
    features = extractor(images)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    if name == "pickscore":
        text = reward.towers.text([tiny.PROMPTS[0]]).numpy()[0]
        np.testing.assert_allclose(reward.scale * features @ text, reward.score(images, tiny.PROMPTS[0]).numpy(), rtol=1e-5)
    assert extractor.name == f"{name}-image" and "trained on it" in extractor.caution


def test_a_reward_without_an_embedding_is_refused(rewards):  # noqa: F811
    with pytest.raises(ValueError, match="'mps' has no embedding of an image alone"):
        from_reward(rewards("mps"))


# Pixels, functions, and what all have in common ----------------------------------------------------------------------------------------


def test_pixels_are_means_of_blocks():
    """A picture of 32 x 48: each of the 16 x 16 numbers is the mean of 2 x 3 pixels, in [-1, 1]."""
    image = tiny.image(0, (48, 32))
    means = levels(image).reshape(3, 16, 2, 16, 3).mean((2, 4))
    np.testing.assert_allclose(small_pixels(image).numpy().reshape(3, 16, 16), means / 127.5 - 1, rtol=0, atol=1e-6)
    found = load_features("pixels")
    assert found([image]).shape == (1, 768) and "no published number" in found.caution


def test_your_own_function():
    brightness = from_function("brightness", lambda images: [[np.mean(levels(image)), image.width] for image in images])
    found = brightness([tiny.image(0, (20, 30)), tiny.image(1, (10, 10), "L")])
    assert found.shape == (2, 2) and found.dtype == np.float32 and found[:, 1].tolist() == [20, 10]
    with pytest.raises(ValueError, match=r"'flat' of 2 images have the shape \(2,\); \(2, d\) is needed"):
        from_function("flat", lambda images: [1.0] * len(images))(tiny.images(2))


@pytest.mark.parametrize("name", ["pixels", "clip-l14-336"])
def test_a_row_is_its_images_alone(clip_folder, name, tmp_path):
    """Whatever the batch, the order and the form: files, PIL images, arrays, a tensor."""
    extractor = load_features(name, None if name == "pixels" else str(clip_folder))
    images = tiny.images(5)
    whole = extractor(images)
    np.testing.assert_allclose(extractor(images[::-1], batch_size=2)[::-1], whole, rtol=0, atol=1e-6)
    images[0].save(tmp_path / "0.png")
    forms = [[str(tmp_path / "0.png")], [np.asarray(images[0])], torch.stack([tiny.pixels(images[0])])]
    for form in forms:
        np.testing.assert_allclose(extractor(form), whole[:1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_features("incepton"), "no features 'incepton'; known: pixels, inception"),
        (lambda: load_features("pixels", "somewhere"), "'pixels' have no weights"),
        (lambda: load_features("pixels", config={}), "one architecture"),
        (lambda: load_features("pixels")([]), "there are no images"),
    ],
)
def test_bad_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert len(names()) == len(set(names()))

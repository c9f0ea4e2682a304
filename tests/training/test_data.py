"""Loading, splitting, scaling and corrupting data; torchvision's loaders read files in their true on-disk format."""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets
from torchvision.transforms.v2 import functional as transforms

from sparsestudy.errors import NotFoundError, SpecError
from sparsestudy.study import DataSpec, SplitSpec
from sparsestudy.training import data, sources
from sparsestudy.training.data import Dataset, load, names

SPLITS = ("train", "search", "selection", "test")
MODULE = "user_data_for_tests"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty directory, with nothing cached and the import path restored afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSESTUDY_DATA", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    data._load.cache_clear()


def spec(name: str, **fields: object) -> DataSpec:
    return DataSpec.model_validate({"name": name, **fields})


def splits(search: float, selection: float, test: float) -> SplitSpec:
    return SplitSpec(search=search, selection=selection, test=test)


def user_function(body: str, signature: str = "") -> str:
    """Write a user's module into the current directory and return the name of its function."""
    source = f"import numpy as np\nimport torch\n\n\ndef make({signature}):\n    {body}\n"
    Path(f"{MODULE}.py").write_text(source)
    return f"{MODULE}:make"


def numbered(counts: list[int]) -> str:
    """A user's function whose single input is the number of the example, so that examples can be told apart."""
    labels = f"np.repeat(np.arange({len(counts)}), {counts})"
    return user_function(f"y = {labels}; return np.arange(len(y), dtype=np.float32)[:, None], y")


def numbers(dataset: Dataset, split: str) -> list[int]:
    return [int(number) for number in getattr(dataset, split).inputs[:, 0]]


def message(error: pytest.ExceptionInfo[SpecError]) -> str:
    return "\n".join(str(problem) for problem in error.value.problems)


# Splits


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("counts", "sizes", "train_size"),
    [
        ([100, 100, 100], splits(0.2, 0.2, 0.2), None),
        ([301, 47, 9, 143], splits(0.15, 50, 0.31), 101),
        ([13, 17, 40], splits(9, 8, 7), 45),  # leaves one example over, fewer than there are classes
    ],
)
def test_splits_are_disjoint_and_every_class_has_its_share(
    counts: list[int], sizes: SplitSpec, train_size: int | None, seed: int
) -> None:
    dataset = load(spec(numbered(counts), splits=sizes, train_size=train_size, seed=seed))

    labels = np.repeat(np.arange(len(counts)), counts)
    left = set(range(len(labels)))
    for split in ("search", "selection", "test", "train"):  # the order in which they are drawn
        drawn = numbers(dataset, split)
        assert len(drawn) == len(set(drawn))
        assert set(drawn) <= left
        assert getattr(dataset, split).labels.tolist() == labels[drawn].tolist()
        shares = np.bincount(labels[list(left)], minlength=len(counts)) * len(drawn) / len(left)
        assert np.abs(np.bincount(labels[drawn], minlength=len(counts)) - shares).max() < 1
        left -= set(drawn)
    if train_size is None:
        assert not left


def test_a_size_below_one_is_a_fraction_and_any_other_a_count() -> None:
    dataset = load(spec(numbered([50, 50]), splits=splits(0.1, 7, 0.25), train_size=30))
    assert [len(getattr(dataset, split)) for split in SPLITS] == [30, 10, 7, 25]


def test_splits_are_shuffled() -> None:
    labels = load(spec(numbered([50, 50]))).train.labels
    assert not torch.equal(labels, labels.sort().values)


def test_the_seed_decides_the_splits() -> None:
    name = numbered([40, 40])
    first, other = load(spec(name, seed=0)), load(spec(name, seed=1))
    data._load.cache_clear()
    again = load(spec(name, seed=0))
    for split in SPLITS:
        assert numbers(first, split) == numbers(again, split)
        assert numbers(first, split) != numbers(other, split)


def test_train_size_and_label_noise_do_not_move_the_evaluation_splits() -> None:
    name = numbered([40, 40])
    full, small = load(spec(name)), load(spec(name, train_size=10, label_noise=0.5))
    for split in ("search", "selection", "test"):
        assert numbers(full, split) == numbers(small, split)


def test_loading_twice_reads_once() -> None:
    name = numbered([20, 20])
    assert load(spec(name)) is load(spec(name))
    assert load(spec(name)) is not load(spec(name, seed=3))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"splits": splits(40, 0.3, 20), "train_size": 50},
            "data.splits: search 40 + selection 30 + test 20 + train_size 50 = 140 examples, but the pool of "
            f"'{MODULE}:make' has 100; lower data.splits or data.train_size",
        ),
        (
            {"splits": splits(40, 40, 20)},
            "data.splits: search 40 + selection 40 + test 20 = 100 examples, but the pool of "
            f"'{MODULE}:make' has 100 and training needs at least 2, one per class; lower data.splits",
        ),
        (
            {"splits": splits(2.5, 20, 20)},
            "data.splits.search: needs a whole count from 1 up, or a fraction below 1; got 2.5",
        ),
        (
            {"splits": splits(20, 0.01, 20)},
            "data.splits.selection: 1 examples cannot hold all 2 classes; use 2 or more",
        ),
        ({"train_size": 1}, "data.train_size: 1 examples cannot hold all 2 classes; use 2 or more"),
    ],
)
def test_sizes_that_do_not_fit(fields: dict[str, object], expected: str) -> None:
    with pytest.raises(SpecError) as error:
        load(spec(numbered([50, 50]), **fields))
    assert message(error) == expected


def test_all_wrong_sizes_are_reported_together() -> None:
    with pytest.raises(SpecError) as error:
        load(spec(numbered([50, 50]), splits=splits(1.5, 0.01, 20), train_size=90))
    paths = [problem.path for problem in error.value.problems]
    assert paths == ["data.splits.search", "data.splits.search", "data.splits.selection", "data.splits"]


def test_a_class_too_rare_to_split_is_named_with_its_count() -> None:
    with pytest.raises(SpecError) as error:
        load(spec(numbered([50, 3, 50, 2])))
    assert message(error) == (
        "data.splits: cannot split by class: every class needs at least 4 examples, one for each of search, selection, "
        "test, train; class 1 has 3, class 3 has 2"
    )


# Label noise


@pytest.mark.parametrize("share", [0.0, 0.1, 0.333, 0.9])
def test_label_noise_changes_exactly_its_share_of_training_labels(share: float) -> None:
    name = numbered([30, 40, 50])
    clean, noisy = load(spec(name)), load(spec(name, label_noise=share))
    assert not clean.corrupted.any()
    changed = clean.train.labels != noisy.train.labels
    assert torch.equal(noisy.corrupted, changed)
    assert int(changed.sum()) == round(share * len(clean.train))
    assert noisy.train.labels.min() >= 0
    assert noisy.train.labels.max() <= 2
    for split in ("search", "selection", "test"):
        assert torch.equal(getattr(clean, split).labels, getattr(noisy, split).labels)


def test_wrong_labels_are_uniform_over_the_other_classes() -> None:
    name = numbered([4000, 4000, 4000, 4000])
    clean, noisy = load(spec(name)), load(spec(name, label_noise=0.5))
    steps = (noisy.train.labels - clean.train.labels)[noisy.corrupted] % 4
    shares = np.bincount(steps, minlength=4) / len(steps)
    assert shares[0] == 0
    # 3200 labels: the standard deviation of each share is sqrt(2/9/3200) < 0.0084; five of them.
    assert np.abs(shares[1:] - 1 / 3).max() < 0.042


def test_more_noise_adds_to_less_and_the_seed_decides() -> None:
    name = numbered([100, 100, 100])
    less, more = load(spec(name, label_noise=0.1)), load(spec(name, label_noise=0.3))
    assert torch.equal(less.train.labels[less.corrupted], more.train.labels[less.corrupted])
    other = load(spec(name, label_noise=0.1, seed=1))
    assert not torch.equal(less.corrupted, other.corrupted)


# Built-in data sets


def test_names_of_built_in_data_sets() -> None:
    torchvision = {"mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"}
    assert names() == sorted(torchvision | {"digits", "synthetic", "image_folder", "diabetes", "friedman1"})


def test_digits_are_standardised_by_the_training_split() -> None:
    digits = load(spec("digits", train_size=200))
    assert digits.input_shape == (1, 8, 8)
    assert digits.classes == 10
    assert [len(getattr(digits, split)) for split in SPLITS] == [200, 359, 359, 359]
    assert digits.train.inputs.dtype == torch.float32
    assert digits.train.labels.dtype == torch.int64
    assert digits.train.inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert digits.train.inputs.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert digits.test.inputs.mean().abs().item() > 1e-4  # not by its own statistics


def test_resize_is_bilinear_with_antialias() -> None:
    plain = load(spec("digits")).train.inputs
    resized = load(spec("digits", arguments={"resize": 5})).train.inputs
    expected = transforms.resize(plain, [5, 5], antialias=True)
    # Standardisation is affine, so it commutes with resizing up to its own two constants.
    torch.testing.assert_close(resized, (expected - expected.mean()) / expected.std(correction=0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("teacher", ["mlp", "linear"])
@pytest.mark.parametrize("seed", range(4))
def test_synthetic_classes_are_roughly_balanced(teacher: str, seed: int) -> None:
    dataset = load(spec("synthetic", arguments={"teacher": teacher, "seed": seed}))
    labels = torch.cat([getattr(dataset, split).labels for split in SPLITS])
    assert len(labels) == 2000
    assert dataset.input_shape == (1, 8, 8)
    assert labels.bincount(minlength=10).min() > 100
    assert labels.bincount(minlength=10).max() < 400


def test_a_linear_teacher_can_be_learnt_by_least_squares_and_another_seed_is_another_teacher() -> None:
    fields = {"examples": 3000, "shape": 12, "classes": 3, "teacher": "linear"}
    one = load(spec("synthetic", arguments=fields))
    assert one.input_shape == (12,)
    targets = torch.nn.functional.one_hot(one.train.labels, 3).float()
    weights = torch.linalg.lstsq(one.train.inputs, targets - targets.mean(0)).solution
    right = ((one.test.inputs @ weights).argmax(1) == one.test.labels).float().mean()
    assert right > 0.9
    other = load(spec("synthetic", arguments={**fields, "seed": 1}))
    assert ((other.test.inputs @ weights).argmax(1) == other.test.labels).float().mean() < 0.7


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"exmaples": 5},
            "data.arguments.exmaples: synthetic has no argument 'exmaples'; allowed: examples, shape, classes, "
            "teacher, width, seed; did you mean 'examples'?",
        ),
        ({"examples": 0}, "data.arguments.examples: needs an integer from 1 up; got 0"),
        ({"classes": 1}, "data.arguments.classes: needs an integer from 2 up; got 1"),
        ({"teacher": "cnn"}, "data.arguments.teacher: needs mlp or linear; got 'cnn'"),
        (
            {"shape": [8, -1]},
            "data.arguments.shape: needs an integer from 1 up, or a list of them such as [1, 8, 8]; got [8, -1]",
        ),
        ({"width": True}, "data.arguments.width: needs an integer from 1 up; got True"),
        ({"seed": -1}, "data.arguments.seed: needs an integer from 0 up; got -1"),
    ],
)
def test_wrong_arguments_of_synthetic(arguments: dict[str, object], expected: str) -> None:
    with pytest.raises(SpecError) as error:
        load(spec("synthetic", arguments=arguments))
    assert message(error) == expected


@pytest.mark.parametrize("resize", [0, 2.5, "8", True])
def test_wrong_resize(resize: object) -> None:
    with pytest.raises(SpecError) as error:
        load(spec("digits", arguments={"resize": resize}))
    assert message(error) == (
        f"data.arguments.resize: needs the side of the images in pixels, an integer from 1 up; got {resize!r}"
    )


def test_unknown_name() -> None:
    expected = (
        "no data set 'CIFAR-10'; built in: cifar10, cifar100, diabetes, digits, fashion_mnist, friedman1, "
        "image_folder, mnist, svhn, synthetic; your own: package.module:function; did you mean 'cifar10'?"
    )
    with pytest.raises(NotFoundError, match=f"^{re.escape(expected)}$"):
        load(spec("CIFAR-10"))


# Torchvision


def picture(number: int, side: int, channels: int) -> np.ndarray:
    """An image [side, side, channels] that tells its number and its axes.

    Channel 0 brightens downwards from the number, channel 1 brightens to the right, channel 2 is dark.
    """
    ramp = np.arange(side, dtype=np.uint8)
    down, right = np.broadcast_to(ramp[:, None], (side, side)), np.broadcast_to(ramp[None, :], (side, side))
    return np.stack([number + down, right, 0 * down], axis=-1)[..., :channels].astype(np.uint8)


def pictures(count: int, side: int, channels: int) -> np.ndarray:
    return np.stack([picture(number, side, channels) for number in range(count)])


def write_idx(path: Path, array: np.ndarray) -> None:
    """The idx format of http://yann.lecun.com/exdb/mnist: two zero bytes, type 0x08 (uint8), rank, sizes, values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def write_mnist(root: Path, folder: str) -> None:
    for prefix, count in (("train", 120), ("t10k", 60)):
        raw = root / folder / "raw"
        write_idx(raw / f"{prefix}-images-idx3-ubyte", pictures(count, 28, 1)[..., 0])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))


def write_pickle(path: Path, content: object) -> str:
    """Write a pickle and return its md5, which torchvision checks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(root: Path, kind: type[datasets.CIFAR10], monkeypatch: pytest.MonkeyPatch) -> None:
    key = "labels" if kind is datasets.CIFAR10 else "fine_labels"
    batches = {"train_list": np.arange(120), "test_list": np.arange(60)}
    for attribute, members in batches.items():
        files = [name for name, _ in getattr(kind, attribute)]
        written = []
        for name, part in zip(files, np.array_split(members, len(files)), strict=True):
            rows = np.stack([picture(i, 32, 3).transpose(2, 0, 1).ravel() for i in part])  # red, green, blue plane
            written.append([name, write_pickle(root / kind.base_folder / name, {"data": rows, key: list(part % 10)})])
        monkeypatch.setattr(kind, attribute, written)
    meta = dict(kind.meta)
    content = {meta["key"]: [str(label) for label in range(10)]}
    meta["md5"] = write_pickle(root / kind.base_folder / meta["filename"], content)
    monkeypatch.setattr(kind, "meta", meta)


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.mkdir(parents=True, exist_ok=True)
    written = dict(datasets.SVHN.split_list)
    for part, count in (("train", 120), ("test", 60)):
        url, name, _ = written[part]
        labels = np.arange(count) % 10
        stored = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]  # the files call the digit zero 10
        savemat(root / name, {"X": pictures(count, 32, 3).transpose(1, 2, 3, 0), "y": stored})
        written[part] = [url, name, hashlib.md5((root / name).read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", written)


def write_data_set(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "svhn":
        write_svhn(root, monkeypatch)
    elif name.startswith("cifar"):
        write_cifar(root, getattr(datasets, name.upper()), monkeypatch)
    else:
        write_mnist(root, {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name])


TORCHVISION = {
    "mnist": (1, 28, 28),
    "fashion_mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
    "svhn": (3, 32, 32),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_data_sets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data_set(name, tmp_path / "here", monkeypatch)
    dataset = load(spec(name, arguments={"root": str(tmp_path / "here")}, splits=splits(20, 0.25, 0.2)))

    assert dataset.input_shape == TORCHVISION[name]
    assert dataset.classes == 10
    assert [len(getattr(dataset, split)) for split in SPLITS] == [70, 20, 30, 60]  # a fraction takes the whole test set
    train = dataset.train.inputs
    channels = [0, 1] if train.shape[1] == 3 else [0]
    torch.testing.assert_close(train.mean((0, 2, 3)), torch.zeros(train.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        train.std((0, 2, 3), correction=0)[channels], torch.ones(len(channels)), atol=1e-4, rtol=0
    )

    # One step of the first channel: rows differ by one, so it converts brightness back into the number of the picture.
    inputs = torch.cat([getattr(dataset, split).inputs for split in ("train", "search", "selection")])
    labels = torch.cat([getattr(dataset, split).labels for split in ("train", "search", "selection")])
    step = (train[0, 0, 1, 0] - train[0, 0, 0, 0]).item()
    dark = inputs[:, 0, 0, 0].min()
    found = ((inputs[:, 0, 0, 0] - dark) / step).round().long()
    assert sorted(found.tolist()) == list(range(120))
    assert torch.equal(labels, found % 10)
    tested = ((dataset.test.inputs[:, 0, 0, 0] - dark) / step).round().long()  # on the scale of the training set
    assert sorted(tested.tolist()) == list(range(60))
    assert torch.equal(dataset.test.labels, tested % 10)
    if train.shape[1] == 3:
        assert train[0, 1, 0, 1] > train[0, 1, 0, 0]
        assert train[0, 1, 1, 0] == train[0, 1, 0, 0]
        assert not train[:, 2].any()  # a channel without variation is centred, not divided by zero


def test_a_count_takes_a_stratified_part_of_the_official_test_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data_set("mnist", tmp_path, monkeypatch)
    dataset = load(spec("mnist", arguments={"root": str(tmp_path)}, splits=splits(20, 20, 30)))
    assert dataset.test.labels.bincount().tolist() == [3] * 10
    assert len(dataset.train) == 80
    with pytest.raises(SpecError) as error:
        load(spec("mnist", arguments={"root": str(tmp_path)}, splits=splits(20, 20, 61)))
    assert message(error) == "data.splits.test: 61 examples wanted, but the official test set has 60"


def test_the_root_comes_from_the_environment_else_from_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match=re.escape(str(tmp_path / "data" / "MNIST" / "raw"))):
        load(spec("mnist"))
    write_data_set("mnist", tmp_path / "elsewhere", monkeypatch)
    monkeypatch.setenv("SPARSESTUDY_DATA", str(tmp_path / "elsewhere"))
    assert load(spec("mnist")).input_shape == (1, 28, 28)


def test_torchvision_images_can_be_resized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data_set("mnist", tmp_path, monkeypatch)
    dataset = load(spec("mnist", arguments={"root": str(tmp_path), "resize": 16}))
    assert dataset.input_shape == (1, 16, 16)
    assert dataset.test.inputs.shape == (60, 1, 16, 16)


@pytest.mark.parametrize(
    ("name", "folder", "command"),
    [
        ("mnist", "MNIST/raw", "MNIST; MNIST('pics', download=True)"),
        ("fashion_mnist", "FashionMNIST/raw", "FashionMNIST; FashionMNIST('pics', download=True)"),
        ("cifar10", "cifar-10-batches-py", "CIFAR10; CIFAR10('pics', download=True)"),
        ("cifar100", "cifar-100-python", "CIFAR100; CIFAR100('pics', download=True)"),
        ("svhn", "", "SVHN; SVHN('pics', split='train', download=True); SVHN('pics', split='test', download=True)"),
    ],
)
def test_a_missing_data_set_says_where_and_how_to_fetch_it(
    name: str, folder: str, command: str, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError) as error:
        load(spec(name, arguments={"root": "pics"}))
    assert f"is missing or damaged in {tmp_path / 'pics' / folder}: Dataset not found" in str(error.value)
    assert str(error.value).endswith(f'fetch it with\n  python -c "from torchvision.datasets import {command}"')


def test_a_damaged_file_is_reported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data_set("cifar10", tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"half a download")
    with pytest.raises(NotFoundError, match=r"CIFAR10 is missing or damaged in .*: Dataset not found or corrupted"):
        load(spec("cifar10", arguments={"root": str(tmp_path)}))


def test_arguments_of_torchvision_data_sets(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        load(spec("mnist", arguments={"rezise": 16}))
    assert message(error) == (
        "data.arguments.rezise: mnist has no argument 'rezise'; allowed: root, resize; did you mean 'resize'?"
    )


def write_folder(root: Path, sizes: list[tuple[int, int]]) -> None:
    """Class ``a`` is red, ``b`` green, ``c`` blue; a pixel value of an image is 50 plus its number."""
    for label, name in enumerate("abc"):
        (root / name).mkdir(parents=True)
        for number in range(10):
            width, height = sizes[number % len(sizes)]
            colour = tuple(50 + number if channel == label else 0 for channel in range(3))
            Image.new("RGB", (width, height), colour).save(root / name / f"{number}.png")


@pytest.mark.parametrize(("sizes", "resize"), [([(12, 12)], None), ([(12, 12), (20, 30)], 9)])
def test_image_folder(sizes: list[tuple[int, int]], resize: int | None, tmp_path: Path) -> None:
    write_folder(tmp_path / "images", sizes)
    arguments = {"root": str(tmp_path / "images"), "resize": resize}
    dataset = load(spec("image_folder", arguments=arguments, splits=splits(6, 6, 6)))
    side = resize or 12
    assert dataset.input_shape == (3, side, side)
    assert dataset.classes == 3
    assert len(dataset.train) == 12
    assert torch.equal(dataset.train.inputs.mean((2, 3)).argmax(1), dataset.train.labels)
    torch.testing.assert_close(dataset.train.inputs.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_images_that_differ_in_size_need_resize(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", [(12, 12), (20, 30)])
    with pytest.raises(SpecError) as error:
        load(spec("image_folder", arguments={"root": str(tmp_path / "images")}))
    assert message(error) == (
        "data.arguments.resize: images differ in size (height, width): 0.png (12, 12), 1.png (30, 20); "
        "give a side, as 32"
    )


def test_a_missing_image_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as error:
        load(spec("image_folder", arguments={"root": "nowhere"}))
    text = str(error.value)
    assert text.startswith(f"image_folder cannot be read from {tmp_path / 'nowhere'}: ")
    assert text.endswith("it needs one folder of images per class, root/CLASS/NAME.png; set data.arguments.root")


# The user's own function


def test_a_function_of_the_current_directory_is_called_with_the_arguments() -> None:
    body = "return torch.full((40, 2, 3), value, dtype=torch.float64), torch.arange(40, dtype=torch.int32) % 4"
    dataset = load(spec(user_function(body, "value"), arguments={"value": 7.5}))
    assert dataset.input_shape == (2, 3)
    assert dataset.classes == 4
    assert dataset.train.inputs.dtype == torch.float32
    assert dataset.train.labels.dtype == torch.int64
    assert (dataset.train.inputs == 7.5).all()  # neither scaled nor standardised


GOOD = "np.zeros((40, 2), dtype=np.float32)"
LABELS = "must be integers (classes) or floating point (numbers to predict) [examples], one per input"
GAP = "labels must be 0, 1, … without a gap, at least two classes, or floating point, as numbers to predict"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return 3", "must return (inputs, labels); got int"),
        (f"return {GOOD}, [0, 1] * 20", "must return two numeric tensors or numpy arrays; got list"),
        (
            f"return {GOOD}, np.array(['a'] * 40)",
            "must return two numeric tensors or numpy arrays; got an array of <U1",
        ),
        (
            "return np.zeros((40, 2), dtype=np.uint8), np.arange(40) % 2",
            "must be floating point [examples, ...]; got torch.uint8 [40, 2] and torch.int64 [40]",
        ),
        (
            "return np.zeros(40), np.arange(40) % 2",
            "must be floating point [examples, ...]; got torch.float64 [40] and torch.int64 [40]",
        ),
        (
            f"return {GOOD}, np.arange(39) % 2",
            f"{LABELS}; got torch.float32 [40, 2] and torch.int64 [39]",
        ),
        (
            f"return {GOOD}, np.arange(40.0)[:, None]",
            f"{LABELS}; got torch.float32 [40, 2] and torch.float64 [40, 1]",
        ),
        (
            f"return {GOOD}, torch.arange(40) % 2 == 0",
            f"{LABELS}; got torch.float32 [40, 2] and torch.bool [40]",
        ),
        (
            f"return {GOOD}, np.where(np.arange(40) < 3, np.nan, 1.5)",
            "labels of user_data_for_tests:make must be finite; 3 values are not",
        ),
        (
            f"return {GOOD}, np.full(40, 2.5)",
            "all 16 training labels are 2.5, so there is nothing to learn",
        ),
        (f"return {GOOD} / [[0, 1]], np.arange(40) % 2", "must be finite; 40 values are not"),
        (
            f"return {GOOD}, np.arange(40) % 2 * 2",
            f"{GAP}; got [0, 2]",
        ),
        (
            f"return {GOOD}, np.arange(40) % 2 - 1",
            f"{GAP}; got [-1, 0]",
        ),
        (
            f"return {GOOD}, np.zeros(40, dtype=int)",
            f"{GAP}; got [0]",
        ),
        ("raise RuntimeError('no disk')", "raised RuntimeError: no disk"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_function_that_returns_something_else(body: str, expected: str) -> None:
    with pytest.raises(SpecError) as error:
        load(spec(user_function(body)))
    assert message(error).startswith("data.name: ")
    assert message(error).endswith(expected)


def test_arguments_of_a_function_are_compared_with_its_signature() -> None:
    name = user_function("return None", "path, size=3")
    with pytest.raises(SpecError) as error:
        load(spec(name, arguments={"sise": 4}))
    assert message(error) == (
        f"data.arguments.sise: {name} has no argument 'sise'; allowed: path, size; did you mean 'size'?\n"
        f"data.arguments.path: {name} requires it, and it is not given"
    )


def test_a_function_that_cannot_be_found(tmp_path: Path) -> None:
    user_function("return None")
    with pytest.raises(
        NotFoundError, match=f"module '{MODULE}' has no function 'maek'; it has make; did you mean 'make'?"
    ):
        load(spec(f"{MODULE}:maek"))
    with pytest.raises(NotFoundError, match=f"module '{MODULE}' has no function but a value '__name__'"):
        load(spec(f"{MODULE}:__name__"))
    with pytest.raises(NotFoundError) as error:
        load(spec("no_such_module_here:make"))
    assert "module 'no_such_module_here' cannot be imported: ModuleNotFoundError: No module named" in str(error.value)
    assert f"installed or below {tmp_path}" in str(error.value)


def test_importing_takes_the_current_directory_last(tmp_path: Path) -> None:
    load(spec(numbered([20, 20])))
    assert sys.path[-1] == str(tmp_path)
    assert sources.names() == names()

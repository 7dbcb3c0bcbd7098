"""Bundles: what goes in, that the bytes never change, what comes out, and that nothing half done is left."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path

import danqing_pack
import pytest
from danqing_pack import check, detect, manifests, pack, unpack
from danqing_pack.archives import read_archive
from danqing_pack.errors import ConversionError, DanqingError, FormatError, RequestError, UnsafeError

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(danqing_pack.__file__).parents[1])}
CHECKOUT = Path(__file__).parents[2]


def below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_in(bundle: Path) -> list[str]:
    with read_archive(bundle) as members:
        return [member.name for member in members]


def rewritten(bundle: Path, target: Path, change: dict[str, bytes | None], top: str = "") -> Path:
    """The same archive by another hand: members replaced, left out (None) or added, under a top folder."""
    with tarfile.open(bundle) as old, tarfile.open(target, "w:gz") as new:
        files = {member.name: old.extractfile(member).read() for member in old}      # type: ignore[union-attr]
        for name, content in {**files, **change}.items():
            if content is not None:
                info = tarfile.TarInfo(top + name)
                info.size = len(content)
                new.addfile(info, io.BytesIO(content))
    return target


@pytest.fixture(scope="module")
def bundle(painter_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small painter, packed; read only."""
    target = tmp_path_factory.mktemp("bundle") / "painter.tar.gz"
    pack(painter_checkpoint, target)
    return target


# ---- what goes in

def test_a_bundle_holds_what_the_documented_command_packs(painter_checkpoint: Path, bundle: Path,
                                                          tmp_path: Path) -> None:
    assert names_in(bundle) == ["config.json", "vocab.txt", "pytorch_model.bin", "danqing.json"]
    subprocess.run(["tar", "xzf", bundle, "-C", tmp_path], check=True)
    made = below(tmp_path)
    manifest = json.loads(made.pop("danqing.json"))
    assert made == {name: (painter_checkpoint / name).read_bytes() for name in made}
    digests = {name: sha256(content).hexdigest() for name, content in made.items()}
    assert manifest["files"] == digests and manifest["source"] == {"layout": "easynlp", "files": digests}
    assert (manifest["format"], manifest["family"], manifest["layout"]) == (1, "painter", "easynlp")
    assert manifest["dimensions"] == json.loads(json.dumps(detect(painter_checkpoint).to_json()["dimensions"]))


def test_only_files_of_the_checkpoint_go_in(painter_copy: Path, tmp_path: Path) -> None:
    (painter_copy / "RRDB_ESRGAN_x4.pth").write_bytes(b"not read here")
    for name in ("pytorch_model.meta.bin", "pytorch_model_step_1.bin", "log/events", ".git/HEAD", ".DS_Store", "notes"):
        (painter_copy / name).parent.mkdir(exist_ok=True)
        (painter_copy / name).write_bytes(b"x")
    done = pack(painter_copy, tmp_path / "out.tar.gz")
    assert set(names_in(tmp_path / "out.tar.gz")) == {"config.json", "vocab.txt", "pytorch_model.bin", "danqing.json",
                                                      "RRDB_ESRGAN_x4.pth"}
    assert done.flavor == "easynlp" and done.size == (tmp_path / "out.tar.gz").stat().st_size
    assert "painter, easynlp layout, 5 files" in done.describe()


def test_the_other_flavor_converts_first_and_leaves_no_scratch(painter_checkpoint: Path, tmp_path: Path) -> None:
    done = pack(painter_checkpoint, tmp_path / "out.tar.gz", flavor="diffusers")
    assert done.flavor == "diffusers" and os.listdir(tmp_path) == ["out.tar.gz"]
    names = names_in(tmp_path / "out.tar.gz")
    assert {"model_index.json", "configuration.json", "vqvae/config.json", "tokenizer/vocab.txt"} <= set(names)
    assert names[-1] == "danqing.json"
    unpack(tmp_path / "out.tar.gz", tmp_path / "folder")
    assert detect(tmp_path / "folder").layout == "diffusers" and check(tmp_path / "folder") == []
    assert manifests.read(tmp_path / "folder")["source"]["layout"] == "easynlp"


def test_a_diffusers_folder_round_trips(painter_folder: Path, tmp_path: Path) -> None:
    pack(painter_folder, tmp_path / "out.tar.gz")
    unpack(tmp_path / "out.tar.gz", tmp_path / "folder")
    assert below(tmp_path / "folder") == below(painter_folder)


def test_a_bundle_is_a_model_too(bundle: Path, tmp_path: Path) -> None:
    pack(bundle, tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == bundle.read_bytes()
    pack(bundle, tmp_path / "modern.tar.gz", flavor="diffusers")
    assert detect(tmp_path / "modern.tar.gz").flavor == "diffusers" and detect(bundle).layout == "eas"


# ---- the same bytes

def test_the_same_checkpoint_gives_the_same_bytes(painter_copy: Path, bundle: Path, tmp_path: Path) -> None:
    os.utime(painter_copy / "config.json", (1, 1))
    (painter_copy / "vocab.txt").chmod(0o600)
    renamed = painter_copy.rename(tmp_path / "another name")
    pack(renamed, tmp_path / "other.tgz")
    assert (tmp_path / "other.tgz").read_bytes() == bundle.read_bytes()


def test_packing_inside_the_model_packs_no_bundle(painter_copy: Path, bundle: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(painter_copy)
    for _ in range(2):
        pack(".", "out.tar.gz", force=True)
        assert Path("out.tar.gz").read_bytes() == bundle.read_bytes()


# ---- what is refused when packing

def test_an_incomplete_folder_is_refused(painter_copy: Path, tmp_path: Path) -> None:
    before = below(painter_copy)
    for name in ("vocab.txt", "config.json", "pytorch_model.bin"):
        (painter_copy / name).rename(tmp_path / "aside")
        with pytest.raises(DanqingError, match=name.replace(".", r"\.")):
            pack(painter_copy, tmp_path / "out.tar.gz")
        (tmp_path / "aside").rename(painter_copy / name)
    (painter_copy / "pytorch_model.bin").write_bytes(before["pytorch_model.bin"][:-100])
    with pytest.raises(FormatError):
        pack(painter_copy, tmp_path / "out.tar.gz")
    assert sorted(os.listdir(tmp_path)) == ["checkpoint"]


def test_the_vocabulary_of_another_checkpoint_is_refused(painter_copy: Path, tmp_path: Path) -> None:
    with open(painter_copy / "vocab.txt", "a") as file:
        file.writelines(f"word{number}\n" for number in range(100_000))
    with pytest.raises(FormatError, match=r"vocab\.txt has 100794 words .* another checkpoint"):
        pack(painter_copy, tmp_path / "out.tar.gz")
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_unknown_and_missing_keys_are_refused(painter_copy: Path, tmp_path: Path) -> None:
    from danqing_pack import pickles
    from danqing_pack.tensors import Tensor

    weights = painter_copy / "pytorch_model.bin"
    tree = {name: Tensor.of(tensor.array().copy()) for name, tensor in pickles.load(weights).items()}
    tree["transformer.unheard.of"] = tree.pop("transformer.ln_f.bias")
    weights.unlink()
    pickles.dump(weights, tree)
    with pytest.raises(ConversionError, match=r"transformer\.unheard\.of"):
        pack(painter_copy, tmp_path / "out.tar.gz")
    assert sorted(os.listdir(tmp_path)) == ["checkpoint"]


def test_a_file_that_is_not_the_listed_one_is_refused(painter_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(painter_folder, tmp_path / "folder"))
    with open(folder / "transformer" / "model.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    with pytest.raises(FormatError, match=r"transformer/model\.safetensors is not the file"):
        pack(folder, tmp_path / "out.tar.gz")
    assert os.listdir(tmp_path) == ["folder"]
    (folder / "danqing.json").unlink()
    pack(folder, tmp_path / "out.tar.gz")


def test_targets_that_are_refused(painter_copy: Path, tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "out.tar.gz").write_text("mine")
    with pytest.raises(RequestError, match="exists"):
        pack(painter_copy, tmp_path / "out.tar.gz")
    assert (tmp_path / "out.tar.gz").read_text() == "mine"
    with pytest.raises(RequestError, match=r"end it in \.tar\.gz"):
        pack(painter_copy, tmp_path / "out.zip")
    with pytest.raises(RequestError, match="no layout nonsense"):
        pack(painter_copy, tmp_path / "new.tar.gz", flavor="nonsense")
    own = Path(shutil.copy(bundle, tmp_path / "own.tar.gz"))
    with pytest.raises(RequestError, match="the source"):
        pack(own, own, force=True)
    with pytest.raises(DanqingError, match="nothing at"):
        pack(tmp_path / "missing", tmp_path / "new.tar.gz")
    with pytest.raises(FormatError, match="no checkpoint") as caught:
        pack(tmp_path, tmp_path / "new.tar.gz")
    assert ".danqing" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "out.tar.gz", "own.tar.gz"]


def test_links_of_a_hub_cache_are_followed(painter_checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--alibaba-pai--painter"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in painter_checkpoint.iterdir():
        shutil.copy(path, repository / "blobs" / f"blob-of-{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/blob-of-{path.name}")
    pack(snapshot, tmp_path / "out.tar.gz")
    assert (tmp_path / "out.tar.gz").read_bytes() == bundle.read_bytes()


def test_links_inside_are_followed_and_links_out_refused(painter_copy: Path, bundle: Path, tmp_path: Path) -> None:
    (painter_copy / "vocab.txt").rename(painter_copy / "words")
    (painter_copy / "vocab.txt").symlink_to("words")
    pack(painter_copy, tmp_path / "out.tar.gz")
    assert (tmp_path / "out.tar.gz").read_bytes() == bundle.read_bytes()
    (tmp_path / "secret").write_text("x")
    (painter_copy / "train_config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeError, match=r"train_config\.json is a link that leads out"):
        pack(painter_copy, tmp_path / "out2.tar.gz")
    (painter_copy / "train_config.json").unlink()
    (painter_copy / "log").symlink_to(tmp_path)
    with pytest.raises(UnsafeError, match="link to a folder"):
        pack(painter_copy, tmp_path / "out2.tar.gz")
    assert not (tmp_path / "out2.tar.gz").exists()


# ---- unpacking

def test_unpacking_gives_the_files_back(painter_checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    done = unpack(bundle, tmp_path / "new" / "folder", progress=seen.append)
    made = below(tmp_path / "new" / "folder")
    assert made.pop("danqing.json") and made == {name: (painter_checkpoint / name).read_bytes() for name in made}
    assert done.verified == 3 and len(done.files) == 4 and "3 digests match" in done.describe()
    assert sum(seen) == bundle.stat().st_size and check(tmp_path / "new" / "folder") == []


@pytest.mark.parametrize("top", ["painter/", "./painter/", "home/user/painter/", "painter/painter/"])
def test_a_top_folder_is_left_out(painter_checkpoint: Path, bundle: Path, tmp_path: Path, top: str) -> None:
    older = rewritten(bundle, tmp_path / "older.tgz", {"danqing.json": None}, top)
    done = unpack(older, tmp_path / "folder")
    assert below(tmp_path / "folder") == below(painter_checkpoint) and "no digest was checked" in done.describe()
    assert all(path.is_file() for path in (tmp_path / "folder").iterdir())


def test_a_top_folder_may_repeat_a_name_below(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("a/b/a/b", "a/b/c"):
            archive.addfile(tarfile.TarInfo(name))
    unpack(tmp_path / "x.tar", tmp_path / "folder")
    assert below(tmp_path / "folder") == {"a/b": b"", "c": b""}


@pytest.mark.parametrize("top", ["", "painter/"])
@pytest.mark.parametrize(("change", "fact"), [
    ({"vocab.txt": b"changed"}, r"vocab\.txt is not the file"),
    ({"vocab.txt": None}, r"vocab\.txt is missing"),
    ({"danqing.json": b"{}"}, r"danqing\.json in .*evil\.tar\.gz is damaged"),
])
def test_wrong_digests_are_refused(bundle: Path, tmp_path: Path, top: str, change: dict[str, bytes | None],
                                   fact: str) -> None:
    evil = rewritten(bundle, tmp_path / "evil.tar.gz", change, top)
    with pytest.raises(FormatError, match=fact):
        unpack(evil, tmp_path / "folder")
    assert os.listdir(tmp_path) == ["evil.tar.gz"]


def test_a_hostile_bundle_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    evil = rewritten(bundle, tmp_path / "evil.tar.gz", {"../outside": b"x"})
    with pytest.raises(UnsafeError, match="leads out"):
        unpack(evil, tmp_path / "new" / "folder")
    assert os.listdir(tmp_path) == ["evil.tar.gz"]


@pytest.mark.parametrize("part", [0.0, 0.3, 0.999])
def test_a_cut_bundle_leaves_nothing(bundle: Path, tmp_path: Path, part: float) -> None:
    data = bundle.read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(data[:int(len(data) * part)])
    with pytest.raises(FormatError):
        unpack(tmp_path / "cut.tar.gz", tmp_path / "folder")
    assert os.listdir(tmp_path) == ["cut.tar.gz"]


def test_an_existing_target_is_kept_or_replaced_whole(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("x")
    with pytest.raises(RequestError, match="exists"):
        unpack(bundle, tmp_path / "folder")
    evil = rewritten(bundle, tmp_path / "evil.tar.gz", {"vocab.txt": b"changed"})
    with pytest.raises(FormatError):
        unpack(evil, tmp_path / "folder", force=True)
    assert below(tmp_path / "folder") == {"config.json": b"x"}
    unpack(bundle, tmp_path / "folder", force=True)
    assert below(tmp_path / "folder")["config.json"] != b"x"
    inside = Path(shutil.copy(bundle, tmp_path / "folder" / "b.tar.gz"))
    with pytest.raises(RequestError, match="the source"):
        unpack(inside, tmp_path / "folder", force=True)


def test_places_that_are_no_bundle(tmp_path: Path, painter_checkpoint: Path) -> None:
    for place, fact in [(tmp_path / "missing", "cannot be read"), (tmp_path, "cannot be read"),
                        (painter_checkpoint / "vocab.txt", "no archive"),
                        (painter_checkpoint / "pytorch_model.bin", "checkpoint of torch")]:
        with pytest.raises(FormatError, match=fact):
            unpack(place, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


# ---- processes

CHILD = """
import sys, time
from danqing_pack import pack, unpack
def wait(done):
    print("in the middle", flush=True)
    time.sleep(60)
{"pack": pack, "unpack": unpack}[sys.argv[1]](sys.argv[2], sys.argv[3], progress=wait)
"""


@pytest.mark.parametrize("verb", ["pack", "unpack"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_no_target(painter_checkpoint: Path, bundle: Path, tmp_path: Path, verb: str,
                                       number: int) -> None:
    source, target = (painter_checkpoint, "out.tar.gz") if verb == "pack" else (bundle, "folder")
    with subprocess.Popen([sys.executable, "-c", CHILD, verb, source, tmp_path / target], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, env=ENVIRONMENT, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "in the middle\n"
        child.send_signal(number)
        assert child.wait(30) != 0
    left = os.listdir(tmp_path)
    assert target not in left and (number == signal.SIGKILL or left == [])
    pack(painter_checkpoint, tmp_path / "next.tar.gz")
    assert os.listdir(tmp_path) == ["next.tar.gz"]


@pytest.mark.parametrize("verb", ["pack", "unpack"])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(painter_checkpoint: Path, bundle: Path, tmp_path: Path,
                                                      verb: str) -> None:
    """A limit on the size of files, which fails in the same place as a disk that is full."""
    script = ("import resource, signal, sys\n"
              "from danqing_pack import pack, unpack\n"
              "from danqing_pack.errors import DanqingError\n"
              "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
              "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
              "try:\n"
              "    {'pack': pack, 'unpack': unpack}[sys.argv[1]](sys.argv[2], sys.argv[3])\n"
              "except DanqingError as error:\n"
              "    print(error)\n")
    source, target = (painter_checkpoint, "out.tar.gz") if verb == "pack" else (bundle, "folder")
    done = subprocess.run([sys.executable, "-c", script, verb, source, tmp_path / target], capture_output=True,
                          text=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "was not written" in done.stdout and list(tmp_path.iterdir()) == []


def test_the_front_door_of_a_checkout(painter_checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, CHECKOUT / "tools" / "pack_eas.py", painter_checkpoint, tmp_path / "out.tar.gz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.tar.gz").read_bytes() == bundle.read_bytes()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "exists" in done.stderr and "Traceback" not in done.stderr

"""Proves that a remote copy is whole or not there, whatever breaks on the way, that nothing waits
for it, and that no password is written anywhere."""

import json
import os
import shutil
import threading
import time

import fsspec
import pytest
from conftest import CHECKPOINT_FILES, make_checkpoint

from arguments_t5 import PRE_TRAINING
from checkpoints_t5 import MANIFEST, BadCheckpoint, verify_checkpoint
from errors import UserError
from flags import parse_flags
from remote_checkpoints_t5 import NUM_ATTEMPTS, BackgroundCopies, RemoteCheckpoints
from run_files_t5 import without_secrets, write_run_yaml

SECRET = "sftp://me:pass%21word@host/runs"


@pytest.fixture(params=["memory", "file"])
def remote(request, tmp_path) -> RemoteCheckpoints:
    """An empty address; waits between attempts are only counted."""
    waits = []
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        found = RemoteCheckpoints("memory://runs/a", sleep=waits.append)
    else:
        found = RemoteCheckpoints(f"file://{tmp_path}/remote/a", sleep=waits.append)
    found.waits = waits
    return found


@pytest.fixture
def local(tmp_path):
    folder = tmp_path / "local"
    folder.mkdir()
    return folder


def test_there_and_back(remote, local, tmp_path):
    assert remote.steps() == []
    for step in (5, 10):
        remote.upload(make_checkpoint(local, step), step=step)
    assert remote.steps() == [10, 5]
    new_disk = tmp_path / "new"
    new_disk.mkdir()
    found = remote.download(10, new_disk)
    assert verify_checkpoint(found) == verify_checkpoint(local / "checkpoint-10")
    assert [path.name for path in new_disk.iterdir()] == ["checkpoint-10"]
    assert remote.waits == []


def test_the_manifest_goes_last_and_leaves_first(remote, local, monkeypatch):
    moves = []
    put, rm_file = remote.fs.put_file, remote.fs.rm_file
    monkeypatch.setattr(
        remote.fs, "put_file", lambda a, b, **k: (moves.append(b.split("/")[-1]), put(a, b, **k))
    )
    monkeypatch.setattr(
        remote.fs, "rm_file", lambda p: (moves.append("-" + p.split("/")[-1]), rm_file(p))
    )
    checkpoint = make_checkpoint(local, 5)
    remote.upload(checkpoint, step=5)
    assert moves[-1] == MANIFEST and len(moves) == len(CHECKPOINT_FILES) + 1
    moves.clear()
    remote.upload(checkpoint, step=5)
    assert moves[0] == f"-{MANIFEST}" and moves[-1] == MANIFEST
    moves.clear()
    remote.keep_only(set())
    assert moves[0] == f"-{MANIFEST}" and remote.steps() == []


@pytest.mark.parametrize("num_cuts", [1, NUM_ATTEMPTS - 1])
def test_a_cut_connection_is_tried_again(remote, local, monkeypatch, num_cuts):
    """Cut in the middle of a file: half of it stays behind and is written over."""
    put = type(remote.fs).put_file
    cuts = []

    def cut(self, source, target, **kwargs):
        if target.endswith("optimizer.pt") and len(cuts) < num_cuts:
            cuts.append(target)
            with self.open(target, "wb") as file:
                file.write(b"half")
            raise ConnectionResetError("connection reset by peer")
        return put(self, source, target, **kwargs)

    monkeypatch.setattr(type(remote.fs), "put_file", cut)
    remote.upload(make_checkpoint(local, 5), step=5)
    assert len(cuts) == num_cuts and remote.waits == [2.0**i for i in range(num_cuts)]
    shutil.rmtree(local / "checkpoint-5")
    assert remote.download(5, local)


def test_a_line_that_stays_dead_is_given_up_and_leaves_no_manifest(remote, local, monkeypatch):
    def dead(self, source, target, **kwargs):
        raise ConnectionResetError("connection reset by peer")

    checkpoint = make_checkpoint(local, 5)
    monkeypatch.setattr(type(remote.fs), "put_file", dead)
    with pytest.raises(OSError, match=f"failed {NUM_ATTEMPTS} times .*reset by peer"):
        remote.upload(checkpoint, step=5)
    assert remote.steps() == [] and len(remote.waits) == NUM_ATTEMPTS - 1


def test_a_short_file_is_noticed_at_once(remote, local, monkeypatch):
    """A server that says yes and keeps half."""
    put = type(remote.fs).put_file

    def short(self, source, target, **kwargs):
        put(self, source, target, **kwargs)
        if len(remote.waits) == 0 and target.endswith("optimizer.pt"):
            with self.open(target, "wb") as file:
                file.write(b"half")

    monkeypatch.setattr(type(remote.fs), "put_file", short)
    remote.upload(make_checkpoint(local, 5), step=5)
    assert len(remote.waits) == 1
    shutil.rmtree(local / "checkpoint-5")
    assert remote.download(5, local)


@pytest.mark.parametrize("name", [*CHECKPOINT_FILES, MANIFEST])
def test_a_damaged_remote_file_is_not_taken(remote, local, name):
    remote.upload(make_checkpoint(local, 5), step=5)
    shutil.rmtree(local / "checkpoint-5")
    path = f"{remote.root}/checkpoint-5/{name}"
    with remote.fs.open(path, "rb") as file:
        good = file.read()
    with remote.fs.open(path, "wb") as file:
        file.write(bytes([good[5] ^ 1]).join([good[:5], good[6:]]))
    with pytest.raises(BadCheckpoint):
        remote.download(5, local)
    assert list(local.iterdir()) == []


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped"])
def test_a_manifest_that_leads_out_is_refused(remote, local, name):
    from checkpoints_t5 import _digest

    checkpoint = make_checkpoint(local, 5)
    remote.upload(checkpoint, step=5)
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    del manifest["digest"]
    manifest["files"][name] = manifest["files"]["optimizer.pt"]
    manifest["digest"] = _digest(manifest)
    with remote.fs.open(f"{remote.root}/checkpoint-5/{MANIFEST}", "w") as file:
        json.dump(manifest, file)
    with pytest.raises(BadCheckpoint, match="outside"):
        remote.download(5, local)


def test_links_and_foreign_paths_in_a_listing_are_refused(remote, local, monkeypatch):
    remote.upload(make_checkpoint(local, 5), step=5)
    ls = type(remote.fs).ls

    def evil(self, path, detail=True, **kwargs):
        root = remote.root
        return [
            *ls(self, path, detail=True, **kwargs),
            {"name": f"{root}/checkpoint-50", "type": "link", "size": 0},
            {"name": f"{root}/checkpoint-51", "type": "directory", "islink": True, "size": 0},
            {"name": f"{root}/../checkpoint-52", "type": "directory", "size": 0},
            {"name": f"{root}/..", "type": "directory", "size": 0},
        ]

    monkeypatch.setattr(type(remote.fs), "ls", evil)
    monkeypatch.setattr(type(remote.fs), "exists", lambda self, path, **kwargs: True)
    assert remote.steps() == [5]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links here")
def test_a_link_instead_of_a_remote_file_is_refused(tmp_path, local):
    remote = RemoteCheckpoints(f"file://{tmp_path}/remote")
    remote.upload(make_checkpoint(local, 5), step=5)
    path = tmp_path / "remote" / "checkpoint-5" / "optimizer.pt"
    shutil.move(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadCheckpoint, match="symbolic link"):
        remote.download(5, local)


# ---- in the background --------------------------------------------------------------------------


def test_submitting_does_not_wait_and_rotation_may_go_on(remote, local, monkeypatch):
    go_on = threading.Event()
    put = type(remote.fs).put_file

    def slow(self, source, target, **kwargs):
        assert go_on.wait(30)
        return put(self, source, target, **kwargs)

    monkeypatch.setattr(type(remote.fs), "put_file", slow)
    copies = BackgroundCopies(remote, output_dir=local, keep_last=2)
    for step in (5, 10, 15):
        checkpoint = make_checkpoint(local, step)
        began = time.monotonic()
        copies.submit(checkpoint, best_step=None)
        assert time.monotonic() - began < 5
        shutil.rmtree(checkpoint)  # what rotation may do
        while step == 5 and not copies.busy:
            time.sleep(0.01)
    assert not copies.finish(seconds=0.1)
    go_on.set()
    assert copies.finish(seconds=30)
    assert remote.steps() == [15, 5]  # 10 was passed over: 15 had come meanwhile
    assert list(local.iterdir()) == []


def test_the_last_ones_and_the_best_are_kept(remote, local):
    copies = BackgroundCopies(remote, output_dir=local, keep_last=2)
    for step in (5, 10, 15, 20):
        copies.submit(make_checkpoint(local, step), best_step=5)
        with copies.change:
            assert copies.change.wait_for(lambda step=step: step in copies.uploaded, timeout=30)
            assert copies.change.wait_for(lambda: not copies.busy, timeout=30)
    assert copies.finish(seconds=30)
    assert remote.steps() == [20, 15, 5]


def test_training_goes_on_without_the_remote(remote, local, monkeypatch, caplog):
    def dead(self, *args, **kwargs):
        raise ConnectionResetError("gone")

    monkeypatch.setattr(type(remote.fs), "put_file", dead)
    copies = BackgroundCopies(remote, output_dir=local, keep_last=2)
    copies.submit(make_checkpoint(local, 5), best_step=None)
    assert not copies.finish(seconds=30)
    assert "NOT copied" in caplog.text and (local / "checkpoint-5").exists()


# ---- addresses and secrets ----------------------------------------------------------------------


def test_a_protocol_without_its_package_is_one_sentence(monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("Install s3fs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(UserError, match="pip install 's3fs'"):
        RemoteCheckpoints("s3://bucket/runs")


def test_an_unknown_protocol_is_one_sentence():
    with pytest.raises(UserError, match="Expected an address such as"):
        RemoteCheckpoints("nonsense://host/runs")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (SECRET, "sftp://***@host/runs"),
        ("s3://KEY:SECRET@bucket/a@b", "s3://***@bucket/a@b"),
        ("simplecache::sftp://me@host/x", "simplecache::sftp://***@host/x"),
        ("hf://user/repo@main/x", "hf://user/repo@main/x"),
        ("file:///a/b", "file:///a/b"),
    ],
)
def test_passwords_are_left_out(url, shown):
    assert without_secrets(f"error at {url}: no") == f"error at {shown}: no"


def test_no_field_file_or_tracker_gets_the_password(tmp_path):
    words = ["--train_file", "x.txt", "--use_cpu", "--remote_checkpoint_dir", SECRET]
    *_, args = parse_flags(PRE_TRAINING, words)
    assert args.remote_url == SECRET
    write_run_yaml(tmp_path, args.given)
    seen = [(tmp_path / "run.yaml").read_text(), str(args), json.dumps(args.to_dict())]
    seen += [args.to_json_string(), repr(args), str(args.to_sanitized_dict())]
    for text in seen:
        assert "pass%21word" not in text and "sftp://***@host/runs" in text


def test_a_repeated_run_without_its_password_says_so(tmp_path):
    with pytest.raises(UserError, match="FSSPEC_SFTP_PASSWORD"):
        RemoteCheckpoints("sftp://***@host/runs")


def test_an_error_does_not_tell_the_password(local, monkeypatch):
    remote = RemoteCheckpoints("memory://runs/b", sleep=lambda seconds: None)

    def dead(self, *args, **kwargs):
        raise ConnectionError(f"cannot reach {SECRET}")

    monkeypatch.setattr(type(remote.fs), "put_file", dead)
    with pytest.raises(OSError) as caught:
        remote.upload(make_checkpoint(local, 5), step=5)
    assert "pass%21word" not in str(caught.value) and "***" in str(caught.value)

"""Copies of a run's checkpoints at any fsspec address, made in the background.

    sftp://host/runs/a/checkpoint-500/model.safetensors ...   copied first
    sftp://host/runs/a/checkpoint-500/manifest.json           copied last, removed first

What has no manifest is not there. Nothing is taken from a listing but the numbers of checkpoints;
file names come from a manifest, and every byte is checked before a copy gets its local name.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from checkpoints_t5 import (
    MANIFEST,
    BadCheckpoint,
    checkpoint_folder,
    move_into_place,
    parse_manifest,
    remove,
    staging_folder,
    step_of,
    verify_checkpoint,
)
from errors import UserError
from run_files_t5 import without_secrets

logger = logging.getLogger(__name__)

# Waits between attempts double: 1, 2, 4, ... seconds, a good minute in all.
NUM_ATTEMPTS = 7
# Protocols whose package is not among this project's own; `pip install` of the second word helps.
PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "webdav": "webdav4[fsspec]",
    "abfs": "adlfs",
    "az": "adlfs",
}

# What the first word of an hf:// address may be, and its name in the Hub's client.
HUB_KINDS = {"models": "model", "datasets": "dataset"}


class RemoteCheckpoints:
    """The checkpoints at one address. Every call tries again, with new connections, for a while."""

    def __init__(self, url: str, *, sleep: Callable[[float], None] = time.sleep):
        self.url = url
        self.name = without_secrets(url)
        self.sleep = sleep
        self.fs, self.root = None, ""
        self._connect()

    def _connect(self) -> None:
        import fsspec

        protocol = self.url.partition("://")[0].rpartition("::")[2]
        if "***@" in self.url:
            raise UserError(
                f"--remote_checkpoint_dir {self.name}: the password was left out of this file on "
                "purpose. Give the address on the command line, or the password in the variable "
                f"FSSPEC_{protocol.upper()}_PASSWORD."
            )
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True)
        except ImportError as error:
            package = PACKAGES.get(protocol, protocol)
            raise UserError(
                f"--remote_checkpoint_dir {self.name}: {protocol}:// needs a package that is not "
                f"installed. pip install '{package}'."
            ) from error
        except ValueError as error:
            raise UserError(
                f"--remote_checkpoint_dir {self.name}: {without_secrets(str(error))}. Expected an "
                "address such as sftp://host/folder, s3://bucket/folder or file:///folder."
            ) from error
        self.root = self.root.rstrip("/")

    def prepare(self) -> None:
        """Makes the private Hub repository that hf:// writes to; other places make themselves.

        Without this a missing one, or a token that does not see it, would look like an empty one.
        """
        if self._is_hub():
            self._persistently(self._make_repository, doing="looking for the repository")

    def steps(self) -> list[int]:
        """Steps whose manifest is there, newest first."""
        return self._persistently(self._steps, doing="listing")

    def manifest(self, step: int) -> dict:
        """The manifest of one step; BadCheckpoint if it is damaged."""
        return self._persistently(lambda: self._manifest(step), doing=f"reading step {step}")

    def download(self, step: int, output_dir: Path) -> Path:
        """A verified local copy; BadCheckpoint if the remote one is not as its manifest says."""
        staging = staging_folder(output_dir, step, stage="downloading")
        shutil.rmtree(staging, ignore_errors=True)
        manifest = self.manifest(step)
        for name, facts in manifest["files"].items():
            self._persistently(
                lambda name=name, facts=facts: self._fetch(step, name, facts, staging),
                doing=f"downloading {name}",
            )
        self._persistently(
            lambda: self.fs.get_file(self._path(step, MANIFEST), str(staging / MANIFEST)),
            doing=f"downloading {MANIFEST}",
        )
        try:
            verify_checkpoint(staging)
        except BadCheckpoint:
            remove(staging)
            raise
        final = checkpoint_folder(output_dir, step)
        move_into_place(staging, final)
        return final

    def upload(self, folder: Path, *, step: int) -> None:
        """Copies a sealed checkpoint, its manifest last."""
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        manifest = parse_manifest(text, step=step)
        self._persistently(lambda: self._remove_file(self._path(step, MANIFEST)), doing="replacing")
        for name, facts in manifest["files"].items():
            self._persistently(
                lambda name=name, facts=facts: self._send(
                    folder / name, step, name, facts["bytes"]
                ),
                doing=f"uploading {name}",
            )
        self._persistently(
            lambda: self._send(folder / MANIFEST, step, MANIFEST, len(text.encode("utf-8"))),
            doing=f"uploading {MANIFEST}",
        )

    def keep_only(self, steps: set[int]) -> None:
        """Removes all other checkpoints, each one's manifest first, and what was cut short."""
        for step in self._persistently(lambda: self._numbered(), doing="listing"):
            if step not in steps:
                self._persistently(lambda step=step: self._remove(step), doing="removing")

    # ---- one attempt ----

    def _path(self, step: int, name: str = "") -> str:
        return "/".join(part for part in (self.root, f"checkpoint-{step}", name) if part)

    def _is_hub(self) -> bool:
        return self.fs.protocol == "hf" and not self.root.startswith("buckets/")

    def _hub(self):
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.fs.endpoint, token=self.fs.token)

    def _make_repository(self) -> None:
        kind, _, rest = self.root.partition("/")
        if kind not in HUB_KINDS:
            kind, rest = "models", self.root
        owner, _, name = rest.partition("/")
        repository = f"{owner}/{name.partition('/')[0].partition('@')[0]}"
        self._hub().create_repo(repository, repo_type=HUB_KINDS[kind], private=True, exist_ok=True)

    def _commit(self, source: Path, path: str) -> None:
        """A file as a commit; `put_file` copies it first, and leaves that copy when it fails."""
        place = self.fs.resolve_path(path)
        self._hub().upload_file(
            path_or_fileobj=str(source),
            path_in_repo=place.path_in_repo,
            repo_id=place.repo_id,
            repo_type=place.repo_type,
            revision=place.revision,
        )

    def _numbered(self) -> list[int]:
        """Numbers of the folders checkpoint-N of the root; links and foreign paths are refused."""
        self.fs.invalidate_cache()
        try:
            entries = self.fs.ls(self.root, detail=True)
        except FileNotFoundError:
            return []
        found = []
        for entry in entries:
            parent, _, name = str(entry["name"]).rstrip("/").rpartition("/")
            if step_of(name) is None:
                continue
            if _is_link(entry) or parent.strip("/") != self.root.strip("/"):
                logger.warning("Refused at %s: %s is a link or lies elsewhere.", self.name, name)
            else:
                found.append(step_of(name))
        return sorted(set(found), reverse=True)

    def _steps(self) -> list[int]:
        return [step for step in self._numbered() if self.fs.exists(self._path(step, MANIFEST))]

    def _manifest(self, step: int) -> dict:
        text = self.fs.cat_file(self._path(step, MANIFEST)).decode("utf-8", errors="replace")
        return parse_manifest(text, step=step)

    def _fetch(self, step: int, name: str, facts: dict, staging: Path) -> None:
        path = self._path(step, name)
        try:
            info = self.fs.info(path)
        except FileNotFoundError as error:
            raise BadCheckpoint(f"lacks {name}") from error
        if _is_link(info):
            raise BadCheckpoint(f"has a symbolic link in it ({name})")
        if info["size"] != facts["bytes"]:
            raise BadCheckpoint(f"has {info['size']:,} of the {facts['bytes']:,} bytes of {name}")
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        self.fs.get_file(path, str(target))

    def _send(self, source: Path, step: int, name: str, num_bytes: int) -> None:
        path = self._path(step, name)
        self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        if self._is_hub():
            self._commit(source, path)
        else:
            self.fs.put_file(str(source), path)
        self.fs.invalidate_cache()
        if (arrived := self.fs.info(path)["size"]) != num_bytes:
            raise OSError(f"{arrived:,} of {num_bytes:,} bytes arrived")

    def _remove(self, step: int) -> None:
        self._remove_file(self._path(step, MANIFEST))
        if self.fs.exists(self._path(step)):
            self.fs.rm(self._path(step), recursive=True)

    def _remove_file(self, path: str) -> None:
        self.fs.invalidate_cache()
        if self.fs.exists(path):
            self.fs.rm_file(path)

    def _persistently(self, action: Callable[[], object], *, doing: str):
        """What `action` returns, tried NUM_ATTEMPTS times; OSError with the last reason."""
        for attempt in range(NUM_ATTEMPTS):
            try:
                return action()
            except (BadCheckpoint, UserError):
                raise
            except Exception as error:  # each protocol has exceptions of its own
                reason = without_secrets(f"{type(error).__name__}: {error}").splitlines()[0]
                if attempt + 1 < NUM_ATTEMPTS:
                    logger.warning("%s at %s failed (%s): again.", doing, self.name, reason)
                    self.sleep(2.0**attempt)
                    self._reconnect()
        raise OSError(f"{doing} at {self.name} failed {NUM_ATTEMPTS} times ({reason})")

    def _reconnect(self) -> None:
        try:
            self._connect()
        except Exception:  # the old connection stays; the next attempt says what is wrong
            logger.debug("No new connection to %s yet.", self.name)


def _is_link(entry: dict) -> bool:
    return bool(entry.get("islink")) or entry.get("type") == "link"


class BackgroundCopies:
    """A thread that uploads sealed checkpoints, one after the other.

    The files are held by hard links, so that rotation may remove the folder meanwhile. While one
    is on its way only the newest of those that wait is kept, so that a slow line piles up nothing.
    """

    def __init__(self, remote: RemoteCheckpoints, *, output_dir: Path, keep_last: int):
        self.remote = remote
        self.output_dir = output_dir
        self.keep_last = keep_last
        self.waiting: tuple[int, Path, int | None] | None = None
        self.busy = False
        self.closed = False
        self.num_failed = 0
        self.uploaded: list[int] = []
        self.change = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="remote checkpoints", daemon=True)
        self.thread.start()

    def submit(self, folder: Path, *, best_step: int | None) -> None:
        """Takes a sealed checkpoint; returns at once."""
        step = step_of(folder.name)
        held = staging_folder(self.output_dir, step, stage="uploading")
        shutil.rmtree(held, ignore_errors=True)
        shutil.copytree(folder, held, copy_function=_link_or_copy)
        with self.change:
            if self.waiting is not None:
                remove(self.waiting[1])
            self.waiting = (step, held, best_step)
            self.change.notify_all()

    def finish(self, *, seconds: float) -> bool:
        """Waits for what is on its way, at most so long; True if all has arrived."""
        with self.change:
            self.closed = True
            self.change.notify_all()
            self.change.wait_for(lambda: not self.busy and self.waiting is None, timeout=seconds)
            return not self.busy and self.waiting is None and self.num_failed == 0

    def _work(self) -> None:
        while True:
            with self.change:
                self.change.wait_for(lambda: self.waiting is not None or self.closed)
                if self.waiting is None:
                    return
                (step, held, best_step), self.waiting, self.busy = self.waiting, None, True
            try:
                self._copy(step, held, best_step)
                self.num_failed = 0
            except Exception as error:  # whatever it is, training goes on without this copy
                self.num_failed += 1
                logger.warning(
                    "Checkpoint %d was NOT copied to %s: %s. Training goes on.",
                    step,
                    self.remote.name,
                    without_secrets(str(error)),
                )
            finally:
                remove(held)
                with self.change:
                    self.busy = False
                    self.change.notify_all()

    def _copy(self, step: int, held: Path, best_step: int | None) -> None:
        self.remote.upload(held, step=step)
        self.uploaded.append(step)
        older = [s for s in self.remote.steps() if s <= step]
        self.remote.keep_only({*older[: self.keep_last], *({best_step} & set(older))})


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

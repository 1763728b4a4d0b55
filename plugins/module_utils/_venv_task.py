# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of ``synapse_venv``: observe, plan, and unless only a prediction is wanted, apply under the host's lock."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import (
    _files,
    _installer,
    _origins,
    _venv,
    _venv_build,
    _venv_plugins,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import Installer, Sources
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import Pin, digest_of, pins_for, text_of
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._releases import (
    LOCK_FILE,
    TOOLS,
    Manifest,
    Release,
    latest,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Runner, SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_build import Interpreter, Proof, UnprovenError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_plugins import Plugin, attempted, without
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_request import (
    Asked,
    Options,
    ask,
    python_floor,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_resolve import (
    Resolution,
    culprits,
    locked,
    needs_index,
)

if t.TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Task"]

Fetch = t.Callable[[str], bytes]


@dataclass(frozen=True)
class _Survey:
    """What one look at the host came to."""

    asked: Asked
    wanted: _venv.Wanted
    host: _venv.Host
    todo: _venv.Plan
    interpreter: Interpreter | None


class Task:
    """One run; ``warnings`` collects what the operator should know although it worked."""

    def __init__(
        self,
        options: Options,
        *,
        runner: Callable[[Sequence[int]], Runner],
        fetcher: Callable[[Sources], Fetch],
        log: Callable[[str], object],
        plugins: tuple[Plugin, ...] = (),
    ) -> None:
        self.options = options
        self.warnings: list[str] = []
        self._runner = runner
        self._fetcher = fetcher
        self._log = log
        # Those of the environment that gives way, or those given in their stead.
        self.plugins = self._given_plugins = plugins
        self._found: Interpreter | None = None
        self._adopted = ""

    # ------------------------------------------------------------------------------------------------------- running

    def run(self, *, apply: bool) -> dict[str, t.Any]:
        """Return the module's result; with ``apply`` false it is what a run would return."""
        if self.options.state == "absent":
            return self._absent(apply=apply)
        run = self._runner(())
        survey = self._survey(run)
        manifest = survey.host.sound.manifest if survey.host.sound and not survey.todo.build else None
        if survey.todo.changed:
            need = {} if survey.todo.build else {"need": 0}
            _venv_build.check_room(self.options.releases_path, **need)
        if survey.todo.changed and apply:
            with _venv_build.held(self.options.releases_path) as lock:
                run = self._runner((lock,))
                # What was seen before the lock may be of the past by now.
                survey, manifest = self._apply(run, self._survey(run))
        elif survey.todo.build and survey.asked.digest is None:
            self._warn_unlocked(survey.asked)
        return self._result(survey, manifest)

    def _survey(self, run: Runner) -> _Survey:
        options = self.options
        texts = self._text("requirements"), self._text("constraints")
        asked = ask(options, *texts)
        releases, names = _venv_build.releases_in(options.releases_path, options.path)
        live = _venv_build.live_at(run, options.path, releases, asked.version, self._named)
        self.plugins = self._given_plugins or _plugins_at(live, releases)
        if self.plugins:
            asked = ask(options, *texts, self.plugins)
        wanted = _venv.Wanted(
            path=options.path,
            releases_path=options.releases_path,
            version=asked.version,
            request=asked.request,
            digest=asked.digest,
            expected=None,
            python=None,
            activate=options.activate,
            rebuild=options.state == "rebuilt",
            keep=options.keep_releases,
        )
        interpreter = None
        if options.python:
            interpreter = self._interpreter(run, asked)
            wanted = replace(wanted, python=interpreter.path)
        host = self._host(run, wanted, live, releases, names)
        if host.sound is None or wanted.rebuild:
            interpreter = interpreter or self._interpreter(run, asked)
            if asked.digest is not None:
                wanted = replace(wanted, expected=pins_for(locked(asked), interpreter.markers))
        return _Survey(asked, wanted, host, _venv.plan(wanted, host), interpreter)

    def _interpreter(self, run: Runner, asked: Asked) -> Interpreter:
        if self._found is None:
            named = None
            if self.options.python:
                named = shutil.which(self.options.python) or self.options.python
            self._found = _venv_build.choose_python(run, named, python_floor(asked.version), asked.version)
        return self._found

    def _host(
        self,
        run: Runner,
        wanted: _venv.Wanted,
        live: _venv.Live,
        releases: tuple[Release, ...],
        names: tuple[str, ...],
    ) -> _venv.Host:
        damaged: dict[str, tuple[_venv.Finding, ...]] = {}
        record = os.path.join(wanted.releases_path, f"{_venv.adopted_name(live, names)}.json")
        recorded = (_files.read(record) or b"").decode("utf-8", "replace") if live.kind == "folder" else ""
        for release in _venv.candidates(wanted, releases, live.name):
            seen = live.seen if release.name == live.name else _venv_build.look(run, release)
            if not seen.findings:
                return _venv.Host(live, releases, names, release, damaged, recorded)
            damaged[release.name] = seen.findings
        return _venv.Host(live, releases, names, None, damaged, recorded)

    def _text(self, option: str) -> str | None:
        path = str(getattr(self.options, option))
        if option == "requirements" and self.options.requirements_content:
            return self.options.requirements_content
        if not path:
            return None
        data = _files.read(path)
        if data is None:
            raise SynapseError(f"{option!r} is {path}, which does not exist on the host: put the file there first.")
        return data.decode("utf-8", "replace")

    def _named(self) -> tuple[str, ...]:
        """Return the classes that the configuration loads; it is there before the first release, or it is not."""
        path = self.options.config_path
        if not path:
            return ()
        return tuple(sorted({name for text in _texts_at(path) for name in _venv_plugins.modules_named_in(text)}))

    # ------------------------------------------------------------------------------------------------------ applying

    def _apply(self, run: Runner, survey: _Survey) -> tuple[_Survey, Manifest | None]:
        options = self.options
        todo, manifest = survey.todo, survey.host.sound.manifest if survey.host.sound else None
        _venv_build.tidy(options.releases_path)
        for release in todo.clear:
            _venv_build.discard(options.releases_path, release.path)
        if todo.build:
            survey, manifest = self._build(run, survey)
            todo = survey.todo
        if todo.record:
            record = os.path.join(options.releases_path, f"{todo.adopt_as}.json")
            _files.write(record, todo.record.encode(), mode=0o644)
        if todo.switch:
            folder = options.releases_path
            release_path = os.path.join(folder, todo.name)
            kept = _venv_build.activate(options.path, release_path, folder=folder, adopt=todo.adopt_as)
            if kept and os.path.dirname(kept) != folder:
                survey = replace(survey, todo=replace(todo, previous=kept))
            self._adopted = kept
        for release in todo.prune:
            _venv_build.discard(options.releases_path, release.path)
        return survey, manifest

    def _build(self, run: Runner, survey: _Survey) -> tuple[_Survey, Manifest]:
        asked, interpreter = survey.asked, survey.interpreter
        if interpreter is None:
            interpreter = self._interpreter(run, asked)
        tools = os.path.join(self.options.releases_path, TOOLS)
        scratch = os.path.join(tools, "scratch")
        _files.make_directory(scratch, mode=0o700)
        sources = self._sources()
        installer = self._installer(run, interpreter, sources, tools, scratch)
        if asked.digest is not None:
            survey, manifest = self._make(
                run, survey, installer, interpreter, pins=locked(asked), plugins=asked.plugins
            )
        else:
            survey, manifest = self._resolve_and_make(run, survey, installer, interpreter, sources)
        for leftover in ("cache", "scratch"):
            _venv_build.discard(self.options.releases_path, os.path.join(tools, leftover))
        return survey, manifest

    def _make(
        self,
        run: Runner,
        survey: _Survey,
        installer: Installer,
        interpreter: Interpreter,
        *,
        pins: tuple[Pin, ...],
        plugins: tuple[Plugin, ...],
    ) -> tuple[_Survey, Manifest]:
        expected = pins_for(pins, interpreter.markers)
        digest = digest_of(pins)
        wanted = replace(survey.wanted, digest=digest, expected=expected)
        survey = replace(survey, wanted=wanted, todo=_venv.plan(wanted, survey.host))
        proof = Proof(wanted.version, digest, wanted.request, expected, _provable(survey.asked.extras), plugins)
        self._log(f"building the release {survey.todo.name} with {installer.name}")
        manifest = _venv_build.build(
            run,
            installer,
            folder=wanted.releases_path,
            name=survey.todo.name,
            lock=text_of(pins),
            proof=proof,
            interpreter=interpreter,
            binary_only=survey.asked.shipped and bool(_glibc()),
            # What was resolved here may have to be resolved and built once more.
            last=survey.asked.digest is not None,
        )
        return survey, manifest

    def _resolve_and_make(
        self, run: Runner, survey: _Survey, installer: Installer, interpreter: Interpreter, sources: Sources
    ) -> tuple[_Survey, Manifest]:
        asked = survey.asked
        self._warn_unlocked(asked)
        before = self._as_of(asked, sources) if needs_index(asked) else ""
        if before and isinstance(installer, _installer.Pip):
            self.warnings.append(
                f"pip cannot resolve as of {before}: today's dependencies may not fit Synapse {asked.version}."
            )
        resolution = Resolution(
            installer,
            asked,
            extra_packages=self.options.extra_packages,
            constraints=self._text("constraints") or "",
            before=before,
            warn=self.warnings.append,
        )
        failures: dict[str, str] = {}
        while True:
            pins = resolution.pins(failures)
            try:
                plugins = without(asked.plugins, failures)
                survey, manifest = self._make(run, survey, installer, interpreter, pins=pins, plugins=plugins)
            except UnprovenError as error:
                if resolution.hold_back(error):
                    continue
                chosen = attempted(plugins)
                if not chosen:
                    raise
                failures.update(culprits(error, chosen))
                continue
            for name, reason in sorted(failures.items()):
                self.warnings.append(
                    f"The plugin {name} was in the environment made by hand, and the release {survey.todo.name} is "
                    f"without it: {reason}. Name it in 'extra_packages' with a version that works, before the release "
                    "serves whoever needs it; with 'carry_plugins: false' nothing is carried over."
                )
            return survey, manifest

    def _as_of(self, asked: Asked, sources: Sources) -> str:
        """Return the instant as of which an old version is resolved, empty for now; refuse an unknown one."""
        return _origins.end_of(_origins.as_of(asked.version, sources, self._fetcher(sources)))

    def _sources(self) -> Sources:
        options = self.options
        return _origins.sources_of(
            index_url=options.index_url,
            default_index_url=options.default_index_url,
            extra_index_urls=options.extra_index_urls,
            find_links=options.find_links,
            offline=options.offline,
            ca_bundle=options.ca_bundle,
        )

    def _warn_unlocked(self, asked: Asked) -> None:
        if not needs_index(asked):
            names = ", ".join(one.pin for one in attempted(asked.plugins))
            self.warnings.append(
                f"Plugins of the environment that gives way are added to what the lock holds ({names}), so this host "
                "resolves them alone: another host, or another day, may get other packages for them. Give a lock that "
                "has them with 'requirements' or 'requirements_content'."
            )
            return
        self.warnings.append(
            f"No lock holds what is asked for (Synapse {asked.version}), so this host resolves it alone: another host, "
            "or another day, may get other packages. Give a lock with 'requirements' or 'requirements_content'."
        )

    # ----------------------------------------------------------------------------------------------------- installers

    def _installer(
        self, run: Runner, interpreter: Interpreter, sources: Sources, tools: str, scratch: str
    ) -> Installer:
        cache = os.environ.get("UV_CACHE_DIR") or os.path.join(tools, "cache")
        reason = "'installer' is pip"
        if self.options.installer != "pip":
            try:
                program = _installer.bootstrap_uv(
                    tools,
                    machine=platform.machine(),
                    glibc=bool(_glibc()),
                    sources=sources,
                    fetch=self._fetcher(sources),
                )
                return _installer.Uv(
                    run,
                    program=program,
                    python=interpreter.path,
                    sources=sources,
                    cache=cache,
                    scratch=scratch,
                    share=cache.startswith(tools),
                )
            except _installer.UnavailableError as error:
                reason = error.msg
            if self.options.installer == "uv":
                raise SynapseError(f"{reason}. Provide it, or set 'installer' to pip. Nothing was changed.")
            self.warnings.append(f"pip installs, which takes longer, because {reason}.")
        if not interpreter.ensurepip:
            minor = ".".join(interpreter.version.split(".")[:2])
            raise SynapseError(
                f"pip has to install here ({reason}), and {interpreter.path} has no ensurepip: install the package "
                f"python{minor}-venv (Debian, Ubuntu) or python3-pip. Nothing was changed."
            )
        return _installer.Pip(
            run, python=interpreter.path, sources=sources, cache=os.path.join(tools, "cache"), scratch=scratch
        )

    # ------------------------------------------------------------------------------------------------------- results

    def _result(self, survey: _Survey, manifest: Manifest | None) -> dict[str, t.Any]:
        todo, options = survey.todo, self.options
        release_path = os.path.join(options.releases_path, todo.name)
        adopt_as = self._adopted
        if todo.adopt_as and not adopt_as:
            adopt_as = _venv_build.adopted_path(options.path, options.releases_path, todo.adopt_as)
        return {
            "changed": todo.changed,
            "version": todo.version,
            "python": os.path.join(release_path, "bin", "python"),
            "release": todo.name,
            "release_path": release_path,
            "previous_release": todo.previous or None,
            "adopt_as": adopt_as or None,
            "pruned": [one.name for one in todo.prune],
            "live": options.activate or survey.host.live.name == todo.name,
            "packages_changed": todo.packages_changed if todo.packages else _venv.difference({}, {}),
            "problems": list(todo.problems),
            "plugins": [one.told() for one in _fates(survey.asked.plugins, manifest)],
            "installer": manifest.installer if manifest else options.installer,
            "lock_digest": manifest.lock_digest if manifest else (survey.wanted.digest or ""),
            "diff": {
                "before_header": options.path,
                "after_header": options.path,
                "before": todo.before,
                "after": todo.after,
            },
        }

    def _absent(self, *, apply: bool) -> dict[str, t.Any]:
        options = self.options
        todo = self._plan_absent()
        if todo.changed and apply:
            _venv_build.check_room(options.releases_path, need=0)
            with _venv_build.held(options.releases_path):
                todo = self._plan_absent()
                _venv_build.tidy(options.releases_path)
                if todo.switch:
                    _files.remove(options.path)
                for release in todo.clear:
                    _venv_build.discard(options.releases_path, release.path)
                _venv_build.discard(options.releases_path, os.path.join(options.releases_path, TOOLS, "cache"))
                _venv_build.run_down(os.path.join(options.releases_path, TOOLS))
                _files.remove(os.path.join(options.releases_path, LOCK_FILE))
            if not os.listdir(options.releases_path):
                os.rmdir(options.releases_path)
        return {
            "changed": todo.changed,
            "packages_changed": todo.packages_changed,
            "problems": [],
            "diff": {"before_header": options.path, "before": todo.before, "after": todo.after},
        }

    def _plan_absent(self) -> _venv.Plan:
        path = self.options.path
        releases, names = _venv_build.releases_in(self.options.releases_path, path)
        live = _venv.Live("nothing")
        for release in releases:
            if os.path.islink(path) and os.path.realpath(path) == os.path.realpath(release.path):
                packages = release.manifest.packages if release.manifest else {}
                live = _venv.Live("release", release.path, release.name, _venv.Seen(packages))
        if live.kind == "nothing" and os.path.isdir(path):
            raise SynapseError(
                f"{path} holds an environment that was not made here, so it stays: remove it yourself if it should go. "
                "Nothing was changed."
            )
        return _venv.plan_absent(_venv.Host(live, releases, names), path)


def _provable(extras: tuple[str, ...]) -> tuple[str, ...]:
    """Return the extras that Synapse's own check can judge: "all" and "postgres" ask for psycopg2 by its name."""
    return tuple(extra for extra in extras if extra not in {"all", "postgres", "test"})


def _glibc() -> str:
    """Return the name and version of the C library where it is glibc, else nothing."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def _fates(plugins: tuple[Plugin, ...], manifest: Manifest | None) -> tuple[Plugin, ...]:
    """Say how it went with each plugin: those that were to be added did or did not come into the release."""
    known = {one.name: one for one in _venv_plugins.from_manifest(manifest.plugins if manifest else ())}
    tried = {one.name for one in attempted(plugins)}
    return tuple(known.get(one.name, one) if one.name in tried else one for one in plugins)


def _texts_at(path: str) -> list[str]:
    """Return the texts of a configuration: a file, or the YAML files of a folder; nothing where it is neither."""
    paths = [path]
    if os.path.isdir(path):
        paths = [os.path.join(path, name) for name in sorted(os.listdir(path)) if name.endswith((".yaml", ".yml"))]
    texts = []
    for one in paths:
        with contextlib.suppress(SynapseError):
            texts.append((_files.read(one) or b"").decode("utf-8", "replace"))
    return texts


def _plugins_at(live: _venv.Live, releases: tuple[Release, ...]) -> tuple[Plugin, ...]:
    """Return the plugins of what gives way: found in a hand-made environment, or remembered by a release of ours."""
    if live.seen.plugins or live.kind in {"folder", "link"}:
        return live.seen.plugins
    name = live.name or latest(releases, apart_from="")
    manifests = [release.manifest for release in releases if release.name == name and release.manifest is not None]
    return _venv_plugins.from_manifest(manifests[0].plugins) if manifests else ()

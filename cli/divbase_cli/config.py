"""Profiles and keys of this laptop: where they are kept, how they are read and written. It knows no command.

The configuration file is TOML and holds no secret; keys are in `credentials.toml` beside it, which only the user may
read, or in the desktop's keyring.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Literal

from divbase_client.errors import InvalidSettings

KeyStore = Literal["file", "keyring"]
_KEYRING_SERVICE = "divbase"


@dataclass(frozen=True)
class Profile:
    """One gateway as this user sees it. `key_store` says where its key is, None while there is none."""

    url: str | None = None
    project: str | None = None
    key_store: KeyStore | None = None


@dataclass(frozen=True)
class Config:
    """The configuration file. `current` is the profile that is used when none is named."""

    path: Path
    current: str = "default"
    profiles: Mapping[str, Profile] = field(default_factory=dict)

    def profile(self, name: str) -> Profile:
        return self.profiles.get(name, Profile())

    def with_profile(self, name: str, profile: Profile | None) -> Config:
        """The same with one profile replaced, or taken away when it is None."""
        others = {other: value for other, value in self.profiles.items() if other != name}
        return replace(self, profiles=others if profile is None else {**others, name: profile})


def config_path(environment: Mapping[str, str]) -> Path:
    """DIVBASE_CONFIG, or where the operating system wants it."""
    if environment.get("DIVBASE_CONFIG"):
        return Path(environment["DIVBASE_CONFIG"])
    from platformdirs import user_config_dir

    return Path(user_config_dir("divbase", appauthor=False)) / "config.toml"


def load_config(path: Path) -> Config:
    """An absent file is an empty configuration. Raises InvalidSettings naming the file and the line otherwise."""
    table = _load(path)
    profiles = table.get("profiles", {})
    try:
        return Config(
            path=path,
            current=_word(table, "profile") or "default",
            profiles={name: _profile(values) for name, values in profiles.items()},
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidSettings(f"{path} is not a configuration of divbase ({error}).", hint=_REPAIR) from error


def save_config(config: Config) -> None:
    lines = [f"profile = {_quoted(config.current)}"]
    for name, profile in sorted(config.profiles.items()):
        lines += ["", f"[profiles.{_quoted(name)}]"]
        values = {"url": profile.url, "project": profile.project, "key_store": profile.key_store}
        lines += [f"{word} = {_quoted(value)}" for word, value in values.items() if value]
    _write(config.path, "\n".join(lines) + "\n", 0o644)


def load_key(config: Config, name: str) -> str | None:
    """The stored key of a profile. Raises InvalidSettings when others could read the file that it is in."""
    store = config.profile(name).key_store
    if store == "keyring":
        found = _keyring().get_password(_KEYRING_SERVICE, _account(config, name))
        return str(found) if found else None
    if store == "file":
        return _word(_load_keys(_keys_path(config)), name)
    return None


def save_key(config: Config, name: str, key: str, store: KeyStore) -> Config:
    """Keep the key; return the configuration that says where (not yet saved)."""
    config = forget_key(config, name)
    if store == "keyring":
        _keyring().set_password(_KEYRING_SERVICE, _account(config, name), key)
    else:
        path = _keys_path(config)
        _write_keys(path, {**_load_keys(path), name: key})
    return config.with_profile(name, replace(config.profile(name), key_store=store))


def forget_key(config: Config, name: str) -> Config:
    """Take the key away from where it is; return the configuration without it (not yet saved)."""
    store = config.profile(name).key_store
    if store == "keyring":
        import keyring.errors

        with contextlib.suppress(keyring.errors.PasswordDeleteError):  # deleted in the keyring itself, then
            _keyring().delete_password(_KEYRING_SERVICE, _account(config, name))
    elif store == "file":
        path = _keys_path(config)
        _write_keys(path, {other: key for other, key in _load_keys(path).items() if other != name})
    return config.with_profile(name, replace(config.profile(name), key_store=None)) if store else config


_REPAIR = "Repair the file, or remove it and log in again: divbase login URL"


def _profile(values: Mapping[str, object]) -> Profile:
    store = _word(values, "key_store")
    if store not in (None, "file", "keyring"):
        raise ValueError(f"key_store is {store!r}, not file or keyring")
    return Profile(url=_word(values, "url"), project=_word(values, "project"), key_store=store)  # type: ignore[arg-type]


def _word(table: Mapping[str, object], name: str) -> str | None:
    value = table.get(name)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is not a text")
    return value


def _load(path: Path) -> dict[str, dict[str, dict[str, object]]]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path} cannot be read ({error}).", hint=_REPAIR) from error


def _keys_path(config: Config) -> Path:
    return config.path.with_name("credentials.toml")


def _load_keys(path: Path) -> dict[str, object]:
    if os.name == "posix" and path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise InvalidSettings(f"{path} holds API keys and others can read it.", hint=f"Run: chmod 600 '{path}'")
    keys: dict[str, object] = dict(_load(path).get("keys", {}))
    return keys


def _write_keys(path: Path, keys: Mapping[str, object]) -> None:
    lines = ["[keys]", *(f"{_quoted(name)} = {_quoted(str(key))}" for name, key in sorted(keys.items()))]
    _write(path, "\n".join(lines) + "\n", 0o600)


def _write(path: Path, text: str, mode: int) -> None:
    """Replace the file in one step, so that neither a crash nor another divbase sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _quoted(text: str) -> str:
    """A TOML basic string. JSON's strings are a subset of them, but for the character DEL."""
    return json.dumps(text).replace("\x7f", "\\u007F")


def _account(config: Config, name: str) -> str:
    return f"{name} ({config.path})"


def _keyring() -> ModuleType:
    try:
        import keyring
    except ImportError as error:
        raise InvalidSettings(
            "The keyring package is not installed.", hint="Run: pip install 'divbase-cli[keyring]'"
        ) from error
    return keyring

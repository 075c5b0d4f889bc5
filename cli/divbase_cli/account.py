"""Commands about the user and this laptop: login, logout, whoami, version, config. It knows no project."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import Annotated

import typer

from divbase_cli.command import command, group
from divbase_cli.completion import complete_profiles
from divbase_cli.config import Profile, forget_key, save_config, save_key
from divbase_cli.failure import UsageError
from divbase_cli.session import Session

config = group("config", "The profiles of this laptop.")


def register(app: typer.Typer) -> None:
    """Put the commands that belong to no noun into the program itself."""
    examples = ["divbase login https://divbase.example.org", "pass divbase | divbase login URL --api-key-stdin"]
    command(app, "login", example=examples)(login)
    command(app, "logout", example="divbase logout")(logout)
    command(app, "whoami", example="divbase whoami")(whoami)
    command(app, "version", example="divbase version")(version)
    app.add_typer(config)


def login(
    session: Session,
    url: Annotated[str, typer.Argument(help="Address of the gateway.", show_default=False)],
    api_key_stdin: Annotated[bool, typer.Option("--api-key-stdin", help="Read the key from standard input.")] = False,
    keyring: Annotated[bool, typer.Option("--keyring", help="Keep the key in the desktop's keyring.")] = False,
) -> None:
    """Check an API key with a gateway and keep both in a profile."""
    from divbase_client.connection import base_url

    address = base_url(url)
    key = _read_key(api_key_stdin)
    with session.client_for(address, key) as client:
        me = client.me()
    name = session.profile_name
    before = session.profile
    # Projects belong to a gateway: another one starts without.
    project = session.options.project or (before.project if before.url == address else None)
    settings = save_key(session.config, name, key, "keyring" if keyring else "file")
    store = settings.profile(name).key_store
    settings = settings.with_profile(name, Profile(url=address, project=project, key_store=store))
    save_config(replace(settings, current=name))
    if session.output.as_json:
        session.output.json({"profile": name, "url": address, "user": me.user.model_dump(mode="json")})
    else:
        session.output.text(f"Logged in to {address} as {me.user.email} (profile {name}).")


def _read_key(from_stdin: bool) -> str:
    if from_stdin:
        key = sys.stdin.readline().strip()
    elif sys.stdin.isatty():
        import getpass

        key = getpass.getpass("API key: ").strip()
    else:
        raise UsageError("There is no terminal to ask for the API key.", hint="Pipe it in and add --api-key-stdin.")
    if not key:
        raise UsageError("No API key was given.", hint="Ask a site admin for one.")
    return key


def logout(session: Session) -> None:
    """Forget the profile's key on this laptop. The key itself stays valid until `divbase keys revoke`."""
    name = session.profile_name
    had = session.profile.key_store is not None
    save_config(forget_key(session.config, name))
    if session.output.as_json:
        session.output.json({"profile": name, "forgotten": had})
    else:
        session.output.text(f"The key of profile {name} is forgotten." if had else f"Profile {name} has no key.")


def whoami(session: Session) -> None:
    """Show whose key is used, where, and what it may do."""
    me = session.client.me()
    if session.output.as_json:
        session.output.json(me.model_dump(mode="json"))
        return
    session.output.facts(
        [
            ("Gateway", session.client.url),
            ("User", f"{me.user.email} ({me.user.name})" if me.user.name else me.user.email),
            ("Site admin", me.user.is_admin),
            ("Key", f"{me.key.prefix} ({me.key.name})"),
            ("Key ends", me.key.expires_at or "never"),
        ]
    )
    if me.memberships:
        session.output.text("")
        session.output.table(["PROJECT", "ROLE"], [(one.project, one.role) for one in me.memberships])


def version(session: Session) -> None:
    """Show the version of this program, and of the gateway where one is set."""
    from importlib.metadata import version as version_of

    versions: dict[str, str | None] = {"divbase-cli": version_of("divbase-cli"), "gateway": None}
    try:
        url: str | None = session.url
    except UsageError:
        url = None
    if url:
        with session.client_for(url, None) as client:
            versions["gateway"] = client.health().version
    if session.output.as_json:
        session.output.json(versions)
    else:
        session.output.facts([(name, value) for name, value in versions.items() if value])


@command(config, "show", example="divbase config show")
def show(session: Session) -> None:
    """Show the profiles; keys are never shown."""
    settings = session.config
    if session.output.as_json:
        profiles = {name: asdict(profile) for name, profile in settings.profiles.items()}
        session.output.json({"path": str(settings.path), "current": session.profile_name, "profiles": profiles})
        return
    session.output.table(
        ["", "PROFILE", "URL", "PROJECT", "KEY IN"],
        [
            ("*" if name == session.profile_name else " ", name, one.url, one.project, one.key_store)
            for name, one in sorted(settings.profiles.items())
        ],
    )


@command(config, "use", example="divbase config use work")
def use(
    session: Session,
    profile: Annotated[
        str, typer.Argument(metavar="PROFILE", help="Name of a profile.", autocompletion=complete_profiles)
    ],
) -> None:
    """Make a profile the one that is used when none is named."""
    if profile not in session.config.profiles:
        known = ", ".join(sorted(session.config.profiles)) or "none"
        raise UsageError(f"There is no profile {profile!r}.", hint=f"Known: {known}. Make one: divbase login URL")
    save_config(replace(session.config, current=profile))
    if session.output.as_json:
        session.output.json({"current": profile})
    else:
        session.output.text(f"Profile {profile} is used from now on.")


@command(config, "path", example="divbase config path")
def path(session: Session) -> None:
    """Print where the configuration file is."""
    if session.output.as_json:
        session.output.json({"path": str(session.config.path)})
    else:
        session.output.text(str(session.config.path))

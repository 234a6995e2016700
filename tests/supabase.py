"""A database like those of Supabase: roles, schemas, default privileges, and requests as PostgREST makes them.

with supabase.roles(server_url):
    supabase.prepare(database_url)
    with supabase.request(database_url, "authenticated", user_id) as connection: ...
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import conninfo

#: Roles of a Supabase project that matter here. `postgres`, which runs migrations, is no superuser.
_ROLES = {
    "anon": "NOLOGIN NOINHERIT",
    "authenticated": "NOLOGIN NOINHERIT",
    "service_role": "NOLOGIN NOINHERIT BYPASSRLS",
    "authenticator": "LOGIN NOINHERIT",
    "postgres": "LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS",
    "supabase_auth_admin": "LOGIN NOINHERIT CREATEROLE",
}
_API = "anon, authenticated, service_role"

_AUTH = """
    CREATE SCHEMA auth AUTHORIZATION supabase_auth_admin;
    CREATE TABLE auth.users (
        instance_id uuid, id uuid NOT NULL PRIMARY KEY, aud varchar(255), role varchar(255), email varchar(255),
        encrypted_password varchar(255), raw_app_meta_data jsonb, raw_user_meta_data jsonb,
        created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now()
    );
    ALTER TABLE auth.users OWNER TO supabase_auth_admin;
    CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$
        SELECT coalesce(
            nullif(current_setting('request.jwt.claim.sub', true), ''),
            nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
        )::uuid
    $$;
"""

_DATABASE = f"""
    GRANT CREATE, USAGE ON SCHEMA public TO postgres;
    GRANT USAGE ON SCHEMA public TO {_API};
    ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public GRANT ALL ON TABLES TO postgres, {_API};
    ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public GRANT ALL ON FUNCTIONS TO postgres, {_API};
    ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public GRANT ALL ON SEQUENCES TO postgres, {_API};
    GRANT USAGE ON SCHEMA auth TO {_API}, postgres;
    GRANT ALL ON ALL TABLES IN SCHEMA auth TO postgres;
    CREATE SCHEMA storage;
    GRANT USAGE ON SCHEMA storage TO {_API}, postgres;
    CREATE TABLE storage.objects (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, owner uuid);
    GRANT ALL ON ALL TABLES IN SCHEMA storage TO postgres, service_role;
    CREATE SCHEMA realtime;
    CREATE TABLE realtime.messages (id bigserial PRIMARY KEY, payload jsonb);
    GRANT USAGE ON SCHEMA realtime TO postgres;
    CREATE PUBLICATION supabase_realtime;
    ALTER PUBLICATION supabase_realtime OWNER TO postgres;
"""


@contextmanager
def roles(url: str) -> Iterator[None]:
    """Have the roles in a server while the context is open; its databases that use them have to be dropped before."""
    with psycopg.connect(url, autocommit=True) as connection:
        for name, attributes in _ROLES.items():
            connection.execute(f"CREATE ROLE {name} {attributes}".encode())
        connection.execute(f"GRANT {_API} TO authenticator".encode())
        connection.execute(f"GRANT {_API} TO postgres WITH ADMIN OPTION".encode())
        connection.execute("""ALTER ROLE postgres SET search_path TO "$user", public, extensions""")
        try:
            yield
        finally:
            for name in reversed(_ROLES):
                connection.execute(f"DROP OWNED BY {name}".encode())
            for name in reversed(_ROLES):
                connection.execute(f"DROP ROLE {name}".encode())


def prepare(url: str) -> None:
    """Make a database like a new one of Supabase. The URL is that of a superuser.

    It is empty, or has the schema `auth` of another program.
    """
    name = conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"GRANT ALL ON DATABASE {name} TO postgres".encode())
        if connection.execute("SELECT to_regclass('auth.users')").fetchone() == (None,):
            connection.execute(_AUTH.encode())
        connection.execute(_DATABASE.encode())


def as_role(url: str, role: str) -> str:
    """Return the URL of the same database for another role that may log in."""
    user = conninfo.conninfo_to_dict(url)["user"]
    return url.replace(f"user={user}", f"user={role}")


@contextmanager
def request(url: str, role: str, user_id: uuid.UUID | None = None) -> Iterator[psycopg.Connection]:
    """Run a request as PostgREST does: a transaction as that role, with the claims of a user. It is rolled back."""
    with psycopg.connect(as_role(url, "authenticator")) as connection:
        claims = {"role": role} | ({} if user_id is None else {"sub": str(user_id)})
        connection.execute(f"SET LOCAL ROLE {role}".encode())
        connection.execute("SELECT set_config('request.jwt.claims', %s, true)", [json.dumps(claims)])
        yield connection
        connection.rollback()


def sign_up(url: str, email: str | None, metadata: object = None) -> uuid.UUID:
    """Make a user as Supabase Auth does; return the id."""
    user_id = uuid.uuid4()
    with psycopg.connect(as_role(url, "supabase_auth_admin"), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO auth.users (id, email, raw_user_meta_data) VALUES (%s, %s, %s)",
            [user_id, email, None if metadata is None else json.dumps(metadata)],
        )
    return user_id

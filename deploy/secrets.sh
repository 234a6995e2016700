#!/bin/sh
# Makes the files with the passwords of docker-compose.yml, in the folder `secrets` next to it. Those that are there stay
# as they are; passwords that a file .env has from an earlier version are taken over.
set -eu
cd "$(dirname "$0")/.."

# The folder is closed to other users of this machine. Each file is open, because containers have users of their own.
umask 022
mkdir -p secrets
chmod 700 secrets

make() {
    if [ ! -s "secrets/$1" ]; then
        printf '%s' "$2" > "secrets/.$1" && mv "secrets/.$1" "secrets/$1"
    fi
}

# The value of a variable in .env, or a new password.
password() {
    found=$(sed -n "s/^$1=//p" .env 2>/dev/null | tail -n 1 || true)
    if [ -n "$found" ]; then
        printf '%s' "$found"
    else
        od -An -N16 -tx1 /dev/urandom | tr -d ' \n'
    fi
}

make postgres_password "$(password POSTGRES_PASSWORD)"
make redis_password "$(password REDIS_PASSWORD)"
make flower_password "$(password FLOWER_PASSWORD)"
make database_url "postgresql://pixcrawler:$(cat secrets/postgres_password)@postgres/pixcrawler"
make broker_url "redis://:$(cat secrets/redis_password)@redis:6379/0"

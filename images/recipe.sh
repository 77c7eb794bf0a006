# Sourced by the builds beside it: what every image recipe needs to know.
# shellcheck shell=bash

# One short digest over the names, modes and contents of a recipe's files: the same recipe, the same tag, nothing built.
recipe_digest() {
  local path
  for path in "$@"; do
    find "$path" -type f -printf '%P %m ' -exec sha256sum --binary {} \; | sed 's| \*.*||' | LC_ALL=C sort
  done | sha256sum | cut -c1-12
}

# The archives that this machine's apt already uses, `main` or `security` (Debian keeps them apart).
# The first release named wins, so that a machine with other vendors' sources still finds Debian's own.
debian_archive() {
  local targets
  targets=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)')
  if [ -z "$targets" ]; then # the package lists were cleared
    apt-get -q update >&2
    targets=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)')
  fi
  case $1 in
    main) sed -n 's/^Debian|Debian|//p' <<<"$targets" | head -n 1 ;;
    security) sed -n 's/^Debian|Debian-Security|//p' <<<"$targets" | head -n 1 ;;
  esac
}

say() { printf '%s\n' "$*" >&2; }

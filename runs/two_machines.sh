#!/usr/bin/env bash
# Two (or more) machines without Slurm: the same command on each, within five minutes of each other.
#   bash runs/two_machines.sh FIRST_MACHINE 2 pre_train_t5.py recipes/my_recipe.yaml
# FIRST_MACHINE is the name or address of one of them, the same word on all; 2 is how many there are.
# All need this folder with the same files and the output folder on a file system they share; PORT
# (29400) of the first one must be reachable. PROCESSES is per machine, one per GPU by default.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "bash runs/two_machines.sh FIRST_MACHINE MACHINES PROGRAM.py FLAGS..." >&2
  exit 2
fi
first=$1 machines=$2
shift 2
python - "$first" "${PORT:-29400}" <<'END' || exit 2
# Where something else answers on the port of the first machine, torchrun would wait for ever.
import errno
import socket
import sys

first, port = sys.argv[1:]
try:
    for family, kind, _, _, address in socket.getaddrinfo(first, int(port), type=socket.SOCK_STREAM):
        with socket.socket(family, kind) as place:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind(address)
except socket.gaierror as error:
    sys.exit(f"{first} is not known here ({error.strerror}). Give a name or address of that machine.")
except OSError as error:  # another one: the address is that of another machine, which looks itself
    if error.errno == errno.EADDRINUSE:
        sys.exit(f"Port {port} of {first} is in use. Give another on all machines: PORT=29401 bash ...")
END
processes=${PROCESSES:-$(nvidia-smi -L 2>/dev/null | grep -c ^GPU || true)}
[ "$processes" -gt 0 ] || processes=1
exec torchrun --nnodes "$machines" --nproc-per-node "$processes" \
  --rdzv-id "${RUN_ID:-t5}" --rdzv-backend c10d --rdzv-endpoint "$first:${PORT:-29400}" \
  --rdzv-conf "join_timeout=${JOIN_SECONDS:-300}" --shutdown-timeout 500 \
  "$@" --expect_processes $((machines * processes))

#!/usr/bin/env bash
# Ends with 2 and a sentence where W&B does not answer. Without network its agents only say "the
# service process is busy", and only after half a minute.
set -euo pipefail
address=${WANDB_BASE_URL:-https://api.wandb.ai}
python - "$address" "${ANSWER_SECONDS:-20}" <<'END'
import sys
import urllib.error
import urllib.request

address, seconds = sys.argv[1:]
try:
    urllib.request.urlopen(address, timeout=float(seconds)).close()
except urllib.error.HTTPError:
    pass  # an answer, if not a page
except (OSError, ValueError) as error:
    print(
        f"W&B does not answer at {address} from this node ({error}). Give the sweep's file instead "
        "of its id, which needs no network: sbatch sweeps/run_sweep.sh sweeps/NAME_sweep.yaml; or "
        "correct WANDB_BASE_URL or https_proxy.",
        file=sys.stderr,
    )
    sys.exit(2)
END

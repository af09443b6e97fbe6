# SPDX-License-Identifier: Apache-2.0
"""Sends the numbers of a run to Weights & Biases. Usage: scalars_to_wandb.py WORK_DIR/TIMESTAMP/vis_data/scalars.json"""
import json
import sys

import wandb

# --8<-- [start:send]
with wandb.init(project="polyak") as run:
    for line in open(sys.argv[1]):
        run.log(json.loads(line))
# --8<-- [end:send]

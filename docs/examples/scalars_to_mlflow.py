# SPDX-License-Identifier: Apache-2.0
"""Sends the numbers of a run to MLflow. Usage: scalars_to_mlflow.py WORK_DIR/TIMESTAMP/vis_data/scalars.json"""
import json
import sys

import mlflow

# --8<-- [start:send]
with mlflow.start_run():
    for values in map(json.loads, open(sys.argv[1])):
        mlflow.log_metrics(values, step=values["step"])
# --8<-- [end:send]

"""All parts' JSON in one file, OUT/gpu.json, with the machine they ran on.

python benchmarks/gpu/merge.py OUT
"""

import json
import platform
import sys
from datetime import date
from pathlib import Path

import torch
import transformers

out = Path(sys.argv[1])
parts = {
    path.stem: json.loads(path.read_text())
    for path in sorted(out.glob("*.json"))
    if path.stem != "gpu"
}
device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
machine = {
    "device": device,
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "python": platform.python_version(),
    "date": date.today().isoformat(),
}
(out / "gpu.json").write_text(json.dumps({"machine": machine, "parts": parts}, indent=1) + "\n")

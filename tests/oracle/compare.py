# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""Do the values just derived equal the committed ones? python compare.py NEW_FOLDER OLD_FOLDER

Every file of NEW_FOLDER must be in OLD_FOLDER. In JSON, integers, texts and shapes must be equal;
numbers of one list may differ by 1e-4 of its largest magnitude, and single numbers by 1e-4 of
themselves (at least 1e-4): float32 sums over at most 1536 terms, in an order that depends on the
CPU, leave about 1e-5. Other files must be equal to the byte.
"""

import json
import os
import sys

TOLERANCE = 1e-4


def numbers(value):
    return isinstance(value, list) and any(isinstance(x, float) for x in value) and all(
        isinstance(x, (int, float)) and not isinstance(x, bool) for x in value)


def differences(new, old, where):
    """Sentences that say where the two trees differ."""
    if numbers(new) and numbers(old) and len(new) == len(old):
        allowed = TOLERANCE * max(abs(x) for x in old)
        worst = max(abs(a - b) for a, b in zip(new, old))
        return [] if worst <= allowed else [f"{where}: off by {worst:.3g}, allowed {allowed:.3g}"]
    if isinstance(new, float) and isinstance(old, float):
        allowed = TOLERANCE * max(1.0, abs(old))
        if abs(new - old) <= allowed:
            return []
    elif isinstance(new, dict) and isinstance(old, dict) and new.keys() == old.keys():
        return [d for k in new for d in differences(new[k], old[k], f"{where}.{k}")]
    elif isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        return [d for i, pair in enumerate(zip(new, old))
                for d in differences(*pair, f"{where}[{i}]")]
    elif type(new) is type(old) and new == old:
        return []
    return [f"{where}: {str(new)[:60]}, committed is {str(old)[:60]}"]


def compare(new_path, old_path):
    name = os.path.basename(new_path)
    if not os.path.exists(old_path):
        return [f"{name}: is not committed"]
    with open(new_path, "rb") as new, open(old_path, "rb") as old:
        if not name.endswith(".json"):
            return [] if new.read() == old.read() else [f"{name}: other bytes"]
        return differences(json.load(new), json.load(old), name)


def main():
    new_folder, old_folder = sys.argv[1:3]
    names = sorted(os.listdir(new_folder))
    found = [d for n in names
             for d in compare(os.path.join(new_folder, n), os.path.join(old_folder, n))]
    if not names:
        found.append("nothing was derived")
    print("\n".join(found[:20]), end="\n" if found else "")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()

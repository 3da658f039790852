"""Open3D without what it shows meshes in notebooks with."""

from __future__ import annotations

import sys
from types import ModuleType

#: What Open3D imports for notebooks, and which names of it.
_NOTEBOOKS = {"plotly": (), "plotly.graph_objects": (), "dash": ("html", "dcc", "Dash")}


def load_open3d() -> ModuleType:
    """Import Open3D.

    Left to itself it imports dash and plotly, too: over half of the time it takes and 40 MB, in
    each renderer; and a stage that died is away for as long as it takes to start.
    """
    stand_ins = {name: ModuleType(name) for name in _NOTEBOOKS if name not in sys.modules}
    for name, module in stand_ins.items():
        vars(module).update(dict.fromkeys(_NOTEBOOKS[name]))
    sys.modules.update(stand_ins)
    try:
        import open3d
    finally:
        for name in stand_ins:
            del sys.modules[name]
    return open3d
